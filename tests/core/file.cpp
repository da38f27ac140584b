#include <relay/core/file.hpp>

#include <csignal>
#include <string>

#include <sys/resource.h>
#include <unistd.h>

#include <doctest/doctest.h>

using namespace relay;

namespace {

std::string error(auto&& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

/// A folder of its own for one test.
struct Folder {
  std::string path;
  Folder() {
    char name[] = "/tmp/relay-file-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  ~Folder() {
    ::chmod(path.c_str(), 0755);
    for (const char* name : {"/a/b/c", "/a/b", "/a", "/f", "/f.tmp"})
      if (::unlink((path + name).c_str()) != 0) ::rmdir((path + name).c_str());
    ::rmdir(path.c_str());
  }
};

}  // namespace

TEST_CASE("bytes come back as they were written") {
  Folder folder;
  const std::string path = folder.path + "/f";
  std::string bytes;
  for (int i = 0; i < 100000; ++i) bytes += static_cast<char>(i * 7);
  CHECK(!exists(path));
  write_file_atomically(path, bytes);
  CHECK(exists(path));
  CHECK(read_file(path) == bytes);
  write_file_atomically(path, "");
  CHECK(read_file(path).empty());
  CHECK(!exists(path + ".tmp"));
}

TEST_CASE("a temporary that a killed program left is no obstacle and leaves nothing behind") {
  Folder folder;
  const std::string path = folder.path + "/f";
  write_file_atomically(path + ".tmp", "much longer than what comes now");
  write_file_atomically(path, "new");
  CHECK(read_file(path) == "new");
  CHECK(!exists(path + ".tmp"));
}

TEST_CASE("two writers of one path do not mix their bytes") {
  Folder folder;
  const std::string path = folder.path + "/f";
  write_file_atomically(path, "old");
  const int other = ::open((path + ".tmp").c_str(), O_WRONLY | O_CREAT, 0666);
  REQUIRE(::flock(other, LOCK_EX) == 0);
  CHECK(contains(error([&] { write_file_atomically(path, "new"); }), "another program is writing it"));
  CHECK(read_file(path) == "old");
  ::close(other);
  write_file_atomically(path, "new");
  CHECK(read_file(path) == "new");
}

TEST_CASE("when a write fails the file is as it was and the temporary is gone") {
  Folder folder;
  const std::string path = folder.path + "/f";
  write_file_atomically(path, "old");
  rlimit before;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4096;  // stands for a full disk: the write stops short, then fails
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string what = error([&] { write_file_atomically(path, std::string(10000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(contains(what, "cannot write " + path + ": "));
  CHECK(read_file(path) == "old");
  CHECK(!exists(path + ".tmp"));
}

TEST_CASE("errors name the path, the reason and what to do") {
  Folder folder;
  const std::string file = folder.path + "/f", gone = folder.path + "/none/f";
  write_file_atomically(file, "x");
  CHECK(error([&] { read_file(gone); }) ==
        "cannot read " + gone + ": No such file or directory: check the path, and that its folder exists");
  CHECK(error([&] { write_file_atomically(gone, "x"); }) ==
        "cannot write " + gone + ": No such file or directory: check the path, and that its folder exists");
  CHECK(contains(error([&] { read_file(folder.path); }), "Is a directory: give the path of a file"));
  CHECK(contains(error([&] { write_file_atomically(file + "/x", "x"); }), "a part of the path is a file"));
  make_directories(folder.path + "/a");
  CHECK(contains(error([&] { write_file_atomically(folder.path + "/a", "x"); }), "Is a directory"));
  CHECK(!exists(folder.path + "/a.tmp"));
}

TEST_CASE("directories are made with those above them") {
  Folder folder;
  make_directories(folder.path + "/a/b/c/");
  make_directories(folder.path + "/a//b");
  CHECK(exists(folder.path + "/a/b/c"));
  make_directories("/");
  make_directories(".");
  write_file_atomically(folder.path + "/f", "x");
  const std::string bad = folder.path + "/f/deep/er";
  CHECK(error([&] { make_directories(bad); }) ==
        "cannot make the folder " + bad + ": " + folder.path + "/f is a file: choose another path");
  CHECK(contains(error([&] { make_directories(folder.path + "/f"); }), "is a file"));
  CHECK_THROWS_AS(make_directories(""), Error);
}

TEST_CASE("a folder that may not be written is reported and left alone") {
  Folder folder;
  write_file_atomically(folder.path + "/f", "old");
  REQUIRE(::chmod(folder.path.c_str(), 0555) == 0);
  const bool root = ::geteuid() == 0;  // whom no permission stops
  if (root) REQUIRE(::seteuid(65534) == 0);
  const std::string writing = error([&] { write_file_atomically(folder.path + "/f", "new"); });
  const std::string making = error([&] { make_directories(folder.path + "/a/b"); });
  if (root) REQUIRE(::seteuid(0) == 0);
  CHECK(contains(writing, "check its permissions or choose another folder"));
  CHECK(contains(making, "cannot make the folder " + folder.path + "/a: "));
  CHECK(read_file(folder.path + "/f") == "old");
}

TEST_CASE("the files of a directory, in order; none where there is no directory") {
  make_directories("listed/inner");
  write_file_atomically("listed/b", "1");
  write_file_atomically("listed/a", "2");
  CHECK(files_in("listed") == std::vector<std::string>{"a", "b", "inner"});
  CHECK(files_in("listed/inner").empty());
  CHECK(files_in("nowhere").empty());
  CHECK_THROWS_AS(files_in("listed/a"), Error);
}

TEST_CASE("fingerprints are FNV-1a") {
  CHECK(fingerprint("") == 0xcbf29ce484222325u);
  CHECK(fingerprint("a") == 0xaf63dc4c8601ec8cu);
  CHECK(fingerprint("foobar") == 0x85944171f73967e8u);
}
