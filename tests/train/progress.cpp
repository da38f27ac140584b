#include <relay/train/progress.hpp>

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <regex>
#include <string>

#include <doctest/doctest.h>

using namespace relay;

namespace {

StepReport report(int step) {
  StepReport r;
  r.step = step;
  r.losses.objective = 0.25;
  r.losses.answer = {.sum = 1, .count = 4, .right = 3};
  r.samples = 32;
  return r;
}

/// What a training of steps first+1 .. last, of `steps`, prints into a file.
std::string printed(int first, int last, int steps) {
  std::FILE* out = std::tmpfile();
  REQUIRE(out);
  {
    Progress progress("looped_aligned", first, steps, out);
    for (int step = first + 1; step <= last; ++step) progress(report(step));
  }
  std::rewind(out);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), out));
  std::fclose(out);
  return text;
}

}  // namespace

TEST_CASE("a file gets plain lines, the last of them at the end") {
  const std::string text = printed(0, 40, 40);
  CAPTURE(text);
  // In 10 seconds there might be another line before it.
  CHECK(std::regex_search(
      text, std::regex("(^|\n)looped_aligned      40/40  loss 0\\.25 +accuracy 0\\.750 +[0-9]+ samples/s  "
                       "[0-9]+:[0-5][0-9] in all\n$")));
  CHECK(text.find('\r') == text.npos);
  CHECK(text.find('\x1b') == text.npos);
}

TEST_CASE("a resumed training counts on; one that stops before its end says nothing of an end") {
  CHECK(printed(30, 40, 40).find("40/40") != std::string::npos);
  CHECK(printed(0, 10, 40).find("in all") == std::string::npos);
}

TEST_CASE("a terminal gets one line that redraws itself: a bar, loss, accuracy, samples a second, time left") {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) {  // as in a chroot without /dev/pts
    MESSAGE("skipped: this machine gives no pseudo-terminal");
    return;
  }
  REQUIRE(::grantpt(master) == 0);
  REQUIRE(::unlockpt(master) == 0);
  const char* name = ::ptsname(master);
  REQUIRE(name);
  std::FILE* out = ::fdopen(::open(name, O_WRONLY | O_NOCTTY), "w");
  REQUIRE(out);
  {
    Progress progress("ar", 0, 40, out);
    ::usleep(250'000);
    progress(report(10));
    progress(report(40));
  }
  std::string text;
  char part[512];
  for (ssize_t n = 1; n > 0 && text.find('\n') == text.npos;)
    if ((n = ::read(master, part, sizeof part)) > 0) text.append(part, static_cast<std::size_t>(n));
  std::fclose(out);
  ::close(master);
  CAPTURE(text);
  const std::string numbers = "loss 0\\.25 +accuracy 0\\.750 +[0-9]+ samples/s  [0-9]+:[0-5][0-9] ";
  CHECK(std::regex_match(text, std::regex("\rar              \\[#####---------------\\]     10/40  " + numbers + "left  "
                                          "\rar              \\[####################\\]     40/40  " + numbers + "in all  \r?\n")));
}

TEST_CASE("silent without a file") {
  Progress progress("ar", 0, 3, nullptr);
  for (int step = 1; step <= 3; ++step) CHECK_NOTHROW(progress(report(step)));
}

TEST_CASE("the clock goes forward") {
  const double before = seconds_now();
  CHECK(seconds_now() >= before);
}
