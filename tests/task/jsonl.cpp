#include <relay/task/jsonl.hpp>

#include <string>
#include <vector>

#include <unistd.h>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>

using namespace relay;

namespace {

const char* const line =
    R"({"task":"arithmetic","length":2,"problem":["1","+","2","*","3","="],"rounds":[["1","+","6","="],["7"]],"answer":"7"})";

std::string error(auto&& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

/// The error of reading the line with one part of it replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = line;
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  text.replace(at, from.size(), to);
  return error([&] { from_jsonl(text, "arithmetic", Arithmetic().vocabulary(), "f:3"); });
}

struct File {
  std::string path;
  File() {
    char name[] = "/tmp/relay-jsonl-XXXXXX";
    ::close(::mkstemp(name));
    path = name;
  }
  ~File() { ::unlink(path.c_str()); }
};

}  // namespace

TEST_CASE("an example is one line, tokens as strings") {
  const Arithmetic task;
  const Example example = task.solve(task.parse("1+2*3").problem);
  CHECK(to_jsonl("arithmetic", task.vocabulary(), example) == line);
  CHECK(from_jsonl(line, "arithmetic", task.vocabulary(), "f:1") == example);
  const Example problem = task.parse("1+2*3");
  Example again =
      from_jsonl(to_jsonl("arithmetic", task.vocabulary(), problem), "arithmetic", task.vocabulary(), "f:1");
  CHECK(again.iterations == 0);  // as many as rounds
  again.iterations = 2;
  CHECK(again == problem);
}

TEST_CASE("a file comes back as it was written") {
  const Arithmetic task;
  const Vocabulary vocabulary = task.vocabulary();
  const File file;
  Random random{Key(1)};
  std::vector<Example> examples;
  for (int i = 0; i < 200; ++i) examples.push_back(task.generate(1 + i % 12, random));
  write_jsonl(file.path, "arithmetic", vocabulary, examples);
  CHECK(read_jsonl(file.path, "arithmetic", vocabulary) == examples);
  write_jsonl(file.path, "arithmetic", vocabulary, {});
  CHECK(read_jsonl(file.path, "arithmetic", vocabulary).empty());
  write_file_atomically(file.path,
                        "\n" + std::string(line) + "\r\n\n" + line);  // blank lines, no line break at the end
  CHECK(read_jsonl(file.path, "arithmetic", vocabulary).size() == 2);
}

TEST_CASE("errors name file, line and field") {
  CHECK(changed("\"7\"}", "\"7\",\"more\":1}") == "no error");
  CHECK(changed("\"arithmetic\"", "\"lis\"") ==
        "f:3: \"task\" is \"lis\", but must be \"arithmetic\": give a file of that task");
  CHECK(changed("\"arithmetic\"", "1") == "f:3: \"task\" must be a string, but is a number");
  CHECK(changed("\"length\":2,", "") == "f:3 has no \"length\"");
  CHECK(changed("\"length\":2", "\"length\":\"2\"") == "f:3: \"length\" must be a whole number, but is a string");
  CHECK(changed("\"length\":2", "\"length\":2.5") == "f:3: \"length\" must be a whole number, but is 2.5");
  CHECK(changed("\"length\":2", "\"length\":0") == "f:3: \"length\" is 0, but must be between 1 and 1000000");
  CHECK(changed("\"length\":2", "\"length\":-1e15").starts_with("f:3: \"length\" is -1000000000000000"));
  CHECK(changed("\"+\"", "\"%\"") == "f:3: \"problem\" has \"%\", which is no token of arithmetic");
  CHECK(changed("\"+\"", "3") == "f:3: \"problem\" has 3, which is no token of arithmetic");
  CHECK(changed("[\"7\"]", "[\"17\"]") == "f:3: \"rounds\" has \"17\", which is no token of arithmetic");
  CHECK(changed("[\"7\"]", "\"7\"") == "f:3: \"rounds\" must be an array, but is a string");
  CHECK(changed("[[\"1\"", "[{},[\"1\"").starts_with("f:3: \"rounds\" must be an array, but is an object"));
  CHECK(changed("[\"1\",\"+\",\"2\",\"*\",\"3\",\"=\"]", "[]") == "f:3: \"problem\" has no tokens");
  CHECK(changed(",\"answer\":\"7\"", "") == "f:3 has no \"answer\"");
  CHECK(changed("\"answer\":\"7\"", "\"answer\":7") == "f:3: \"answer\" has 7, which is no token of arithmetic");
  CHECK(changed("}", "").starts_with("f:3: line 1, column "));
  CHECK(error([&] { from_jsonl("[]", "arithmetic", Arithmetic().vocabulary(), "f:3"); }) ==
        "f:3 must be an object, but is an array");

  const File file;
  write_file_atomically(file.path, std::string(line) + "\n\n" + std::string(line).substr(0, 30));
  CHECK(error([&] {
          read_jsonl(file.path, "arithmetic", Arithmetic().vocabulary());
        }).starts_with(file.path + ":3: line 1, column 31"));
  CHECK_THROWS_AS(read_jsonl("/nowhere/f", "arithmetic", Arithmetic().vocabulary()), Error);
}
