// What the tests of files share: a folder of their own, and the words of an error.
#pragma once

#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

#include <unistd.h>

#include <doctest/doctest.h>

#include <relay/core/require.hpp>

/// A folder for one test, gone after it.
struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/relay-io-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string operator/(std::string_view name) const { return path + "/" + std::string(name); }
};

inline std::string error(auto&& run) {
  try {
    run();
  } catch (const relay::Error& e) {
    return e.what();
  }
  return "no error";
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

/// Without the care of the library's writer, so that thousands of broken files cost little.
inline void put_file(const std::string& path, std::string_view bytes) {
  ::unlink(path.c_str());  // some file systems sync a file that is written over
  std::FILE* file = std::fopen(path.c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  REQUIRE(std::fclose(file) == 0);
}
