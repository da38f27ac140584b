// Files: read whole, write atomically, make directories. Every error names the path, the reason and what to do.
//
// Atomically: the bytes go to "path.tmp", reach the disk, and take the name in one rename. Whoever reads the path sees
// the old file or the new one, also after a crash, a full disk or a SIGKILL; a temporary left by one is reused by the
// next write. A lock on the temporary keeps two programs that write the same path from mixing their bytes.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>

namespace relay {

namespace detail {

/// What a person can do about an errno, after the colon of the message.
inline const char* advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return ": free some space or choose another folder";
    case EACCES:
    case EPERM:
    case EROFS:
      return ": check its permissions or choose another folder";
    case ENOENT:
      return ": check the path, and that its folder exists";
    case ENOTDIR:
      return ": a part of the path is a file, not a folder";
    case EISDIR:
      return ": give the path of a file, not of a folder";
    case EFBIG:
      return ": a file may not grow so large here";
    case EMFILE:
    case ENFILE:
      return ": too many files are open";
    case ENAMETOOLONG:
      return ": choose a shorter path";
    default:
      return "";
  }
}

[[noreturn]] inline void fail_file(std::string_view doing, const std::string& path, int error) {
  fail("cannot ", doing, " ", path, ": ", std::strerror(error), advice(error));
}

/// An open file, closed on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  int close() { return ::close(release()); }  // some file systems report a failed write only here

 private:
  int fd_;
};

inline int open_file(const std::string& path, int flags) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  while (fd < 0 && errno == EINTR);
  return fd;
}

/// The temporary of `path`, open, empty and locked.
inline int open_temporary(const std::string& path, const std::string& temporary) {
  for (;;) {
    Descriptor file(open_file(temporary, O_WRONLY | O_CREAT | O_NOFOLLOW));
    if (file.get() < 0) fail_file("write", path, errno);
    require(::flock(file.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "cannot write ", path,
            ": another program is writing it: wait for it, or choose another folder");
    struct stat ours, named;
    const bool same = ::fstat(file.get(), &ours) == 0 && ::stat(temporary.c_str(), &named) == 0 &&
                      ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
    if (!same) continue;  // another program renamed it between our open and our lock
    if (::ftruncate(file.get(), 0) != 0) fail_file("write", path, errno);
    return file.release();
  }
}

}  // namespace detail

inline bool exists(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0;
}

inline std::string read_file(const std::string& path) {
  detail::Descriptor file(detail::open_file(path, O_RDONLY));
  if (file.get() < 0) detail::fail_file("read", path, errno);
  struct stat status;
  std::string bytes;
  if (::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode))
    bytes.reserve(static_cast<std::size_t>(status.st_size));
  for (;;) {
    char block[1 << 14];
    const ssize_t n = ::read(file.get(), block, sizeof block);
    if (n == 0) return bytes;
    if (n > 0)
      bytes.append(block, static_cast<std::size_t>(n));
    else if (errno != EINTR)
      detail::fail_file("read", path, errno);
  }
}

/// Replaces or makes the file; when it throws, a file that was there before is as it was.
inline void write_file_atomically(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".tmp";
  detail::Descriptor file(detail::open_temporary(path, temporary));
  const auto give_up = [&](int error) {
    ::unlink(temporary.c_str());
    detail::fail_file("write", path, error);
  };
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
    if (n >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      give_up(errno);
  }
  if (::fsync(file.get()) != 0 && errno != EINVAL) give_up(errno);  // EINVAL: nothing to sync on this file system
  if (::rename(temporary.c_str(), path.c_str()) != 0) give_up(errno);
  if (file.close() != 0 && errno != EINTR) detail::fail_file("write", path, errno);

  const std::size_t slash = path.rfind('/');  // the rename itself reaches the disk with the directory
  const std::string directory = slash == path.npos ? "." : path.substr(0, slash + 1);
  detail::Descriptor folder(detail::open_file(directory, O_RDONLY | O_DIRECTORY));
  if (folder.get() >= 0 && ::fsync(folder.get()) != 0 && errno != EINVAL) detail::fail_file("write", path, errno);
}

/// Adds to the end of the file, which is made if it is not there.
inline void append_to_file(const std::string& path, std::string_view bytes) {
  detail::Descriptor file(detail::open_file(path, O_WRONLY | O_CREAT | O_APPEND));
  if (file.get() < 0) detail::fail_file("write", path, errno);
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.get(), bytes.data(), bytes.size());
    if (n >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      detail::fail_file("write", path, errno);
  }
  if (file.close() != 0 && errno != EINTR) detail::fail_file("write", path, errno);
}

/// Keeps every other process that asks for the same lock out, for as long as it lives.
class FileLock {
 public:
  /// `busy`: what to say when another process holds it.
  FileLock(const std::string& path, std::string_view busy) : file_(detail::open_file(path, O_RDWR | O_CREAT)) {
    if (file_.get() < 0) detail::fail_file("write", path, errno);
    if (::flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      require(errno != EWOULDBLOCK, busy);
      detail::fail_file("lock", path, errno);
    }
  }

 private:
  detail::Descriptor file_;
};

/// Removes the file if it is there.
inline void remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) detail::fail_file("remove", path, errno);
}

/// Makes the directory and those above it; it may be there already.
inline void make_directories(const std::string& path) {
  require(!path.empty(), "cannot make a folder with an empty name: give its path");
  for (std::size_t end = 0; end != path.npos;) {
    end = path.find('/', end + 1);
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0777) == 0) continue;
    const int error = errno;
    struct stat status;
    if (::stat(part.c_str(), &status) != 0) detail::fail_file("make the folder", part, error);
    require(S_ISDIR(status.st_mode), "cannot make the folder ", path, ": ", part, " is a file: choose another path");
  }
}

/// The names of the files that are in a directory, in order; none where there is no such directory.
inline std::vector<std::string> files_in(const std::string& directory) {
  struct Close {
    void operator()(DIR* opened) const { ::closedir(opened); }
  };
  const std::unique_ptr<DIR, Close> opened(::opendir(directory.c_str()));
  if (!opened && errno != ENOENT) detail::fail_file("read", directory, errno);
  std::vector<std::string> names;
  while (const dirent* entry = opened ? ::readdir(opened.get()) : nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

/// By which bytes are known again (FNV-1a); it does not stand up to a forger.
constexpr std::uint64_t fingerprint(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// A fingerprint as people see it: 16 hexadecimal digits.
inline std::string in_digits(std::uint64_t fingerprint) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(fingerprint));
  return digits;
}

}  // namespace relay
