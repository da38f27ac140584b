// How much of the processor's largest cache one core may count on.
#pragma once

#include <algorithm>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace relay::cpu {

/// Bytes: an eighth of what the operating system says, since eight cores or more share it (a virtual machine may be told of all of it, and have a
/// part), between 4 MiB, where it says nothing, and 64 MiB, which from a large one come hardly faster than from memory.
inline long cache_of_a_core() {
  static const long bytes = [] {
    long whole = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    whole = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return std::clamp(whole / 8, 4L << 20, 64L << 20);
  }();
  return bytes;
}

}  // namespace relay::cpu
