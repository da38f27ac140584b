#include <relay/task/recorded.hpp>

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>
#include <relay/task/jsonl.hpp>
#include <relay/task/split.hpp>

#include "../io/scratch.hpp"

using namespace relay;

namespace {

using Words = std::vector<std::string>;

const std::string train_text =
    R"({"problem":"the ball is with ann . ann gives it to ben .","rounds":["the ball is with ben"],"answer":"ben"}
{"problem":"ann gives it to ben . ben gives it to cid . the ball is with ann .","rounds":["the ball is with ben","the ball is with cid"],"answer":"cid"}

{"problem":"the ball is with cid . cid gives it to ann .","rounds":["the ball is with ann"],"answer":"ann"}
)";
const std::string test_text = R"({"problem":"the ball is with ben . ben gives it to cid .","rounds":["the ball is with cid"],"answer":"cid"})";
const std::string problems_text =
    R"({"problem":"ann gives it to ben . ben gives it to cid . cid gives it to dan . the ball is with ann .","iterations":3}
{"problem":"the ball is with ann . ann gives it to dan .","rounds":["the ball is with dan"],"answer":"dan"}
)";

/// The three files of a data set; what is empty is not there.
struct Data {
  Folder folder;
  RecordedTask::Files files;
  Data(const std::string& train, const std::string& test = "", const std::string& problems = "", Splitting tokens = Splitting::whitespace) {
    const auto put = [&](const char* name, const std::string& text) {
      if (text.empty()) return std::string();
      put_file(folder / name, text);
      return folder / name;
    };
    files = {.data = put("train.jsonl", train), .test = put("test.jsonl", test), .problems = put("longer.jsonl", problems), .tokens = tokens};
  }
  RecordedTask load() const { return RecordedTask::load(files); }
  /// The error of loading, without the folder's name.
  std::string wrong() const {
    std::string text = error([&] { load(); });
    for (std::size_t at; (at = text.find(folder.path + "/")) != text.npos;) text.erase(at, folder.path.size() + 1);
    return text;
  }
};

std::string wrong(const std::string& train, const std::string& test = "", const std::string& problems = "",
                  Splitting tokens = Splitting::whitespace) {
  return Data(train, test, problems, tokens).wrong();
}

/// A good line, another one, then this one.
std::string third(const std::string& line) {
  return wrong(R"({"problem":"a b","rounds":["b"],"answer":"b"})"
               "\n\n" + line + "\n");
}

Words printed(const RecordedTask& task, const Example& example) {
  Words out = {task.print(example.problem)};
  for (const Tokens& round : example.rounds) out.push_back(task.print(round));
  return out;
}

}  // namespace

TEST_CASE("texts are split at whitespace, or into characters") {
  using Parts = std::vector<std::string_view>;
  CHECK(split("john has  the\tball\r\n", Splitting::whitespace) == Parts{"john", "has", "the", "ball"});
  CHECK(split(" \n ", Splitting::whitespace).empty());
  CHECK(split("", Splitting::characters).empty());
  CHECK(split("a \u00e9\u2264\U0001F600", Splitting::characters) == Parts{"a", " ", "\u00e9", "\u2264", "\U0001F600"});
  CHECK(split("\u00e9\u2264 \u00e9", Splitting::whitespace) == Parts{"\u00e9\u2264", "\u00e9"});
  CHECK(error([] { split("ab\xff", Splitting::characters); }) ==
        "byte 3 of the text is not UTF-8: characters can be told apart in UTF-8 only");
}

TEST_CASE("the three files become a task") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  CHECK(task.name == "own_data");
  CHECK(task.train().all().size() == 3);
  CHECK(task.train().lengths() == std::vector<int>{1, 2});
  CHECK(task.train().of_length(1).size() == 2);
  CHECK(task.train().of_length(2).size() == 1);
  CHECK(task.train().of_length(3).empty());
  CHECK(task.train().of_length(-1).empty());
  CHECK(task.test().all().size() == 1);
  CHECK(task.problems().lengths() == std::vector<int>{1, 3});

  const Example& two = task.train().of_length(2).front();
  CHECK(two.length == 2);
  CHECK(two.iterations == 2);
  CHECK(printed(task, two) == Words{"ann gives it to ben . ben gives it to cid . the ball is with ann .", "the ball is with ben", "the ball is with cid"});
  CHECK(task.print({two.answer}) == "cid");
  CHECK(task.train().place(two).ends_with("train.jsonl:2"));
  CHECK(task.train().place(task.train().of_length(1)[1]).ends_with("train.jsonl:4"));  // blank lines count

  const Example& longer = task.problems().of_length(3).front();
  CHECK(longer.rounds.empty());
  CHECK(longer.answer == Vocabulary::pad);
  CHECK(longer.iterations == 3);
  CHECK(task.problems().of_length(1).front().rounds.size() == 1);  // recorded, but not trained on

  CHECK(task.untrained() == Words{"dan"});
  CHECK(Data(train_text).load().test().empty());
  CHECK(Data(train_text).load().problems().lengths().empty());
}

TEST_CASE("texts and lists of tokens say the same; what `relay data` writes is read") {
  const auto same = [](const std::string& line, const std::string& other) {
    const RecordedTask a = Data(line).load(), b = Data(other).load();
    CHECK(a.train().all()[0] == b.train().all()[0]);
    CHECK(a.vocabulary().spellings() == b.vocabulary().spellings());
  };
  same(R"({"problem":"a b 1 = ","rounds":["b 1","1"],"answer":"1"})",
       R"({"problem":["a","b","1","="],"rounds":[["b","1"],["1"]],"answer":"1"})");
  same(R"({"problem":"a b","rounds":["b"],"answer":"b"})", R"({"problem":"a b","rounds":[["b"]],"answer":" b "})");

  const Arithmetic arithmetic{.modulus = 13};
  Random random{Key(1)};
  std::vector<Example> examples;
  std::string text;
  for (int i = 0; i < 300; ++i) {
    examples.push_back(arithmetic.generate(1 + i % 5, random));
    text += to_jsonl(Arithmetic::name, arithmetic.vocabulary(), examples.back()) + "\r\n";
  }
  const RecordedTask task = Data("\xef\xbb\xbf" + text).load();
  CHECK(task.name == "arithmetic");
  const Vocabulary theirs = arithmetic.vocabulary(), ours = task.vocabulary();
  CHECK(ours.size() == theirs.size());
  CHECK(ours.first_value() == theirs.first_value());  // numbers are values
  for (Token t = ours.first_value(); t < ours.size(); ++t) CHECK(ours.spelling(t) == theirs.spelling(t));
  std::map<int, std::size_t> nth;
  for (const Example& e : examples) {
    const Example& read = task.train().of_length(e.length)[nth[e.length]++];
    CHECK(read.iterations == e.iterations);
    CHECK(ours.spell(read.problem) == theirs.spell(e.problem));
    REQUIRE(read.rounds.size() == e.rounds.size());
    for (std::size_t t = 0; t < e.rounds.size(); ++t) CHECK(ours.spell(read.rounds[t]) == theirs.spell(e.rounds[t]));
    CHECK(ours.spelling(read.answer) == theirs.spelling(e.answer));
    CHECK(task.verify(read).right());
  }
  CHECK(task.answer(task.train().all()[7]) == task.train().all()[7].answer);
}

TEST_CASE("the vocabulary: words as they come, then whole numbers by value") {
  const RecordedTask task = Data(R"({"problem":"x 10 9 -1 2.5 007 7 y","rounds":["z 100000000000000000000000000 1b"],"answer":"0"})",
                                 R"({"problem":"x y w 3","rounds":["y"],"answer":"0"})", R"({"problem":"v 99","iterations":2})")
                                .load();
  CHECK(task.vocabulary().spellings() == Words{"<pad>", "<round>", "<eos>", "x", "-1", "2.5", "y", "z", "1b", "w", "v", "0", "3", "7", "007",
                                               "9", "10", "99", "100000000000000000000000000"});
  CHECK(task.vocabulary().spelling(task.vocabulary().first_value()) == "0");
  CHECK(task.untrained() == Words{"w", "v", "3", "99"});
  const RecordedTask words = Data(R"({"problem":"a b","rounds":["b"],"answer":"b"})").load();
  CHECK(words.vocabulary().first_value() == words.vocabulary().size());  // no values at all
}

TEST_CASE("characters") {
  const RecordedTask task = Data(R"({"problem":"3+\u00e9 =","rounds":["3\u00e9","7"],"answer":"7","task":"sums"})",
                                 R"({"problem":["3","+"],"rounds":[["7"]],"answer":"7"})", "", Splitting::characters)
                                .load();
  CHECK(task.name == "sums");
  CHECK(task.vocabulary().spellings() == Words{"<pad>", "<round>", "<eos>", "+", "\u00e9", " ", "=", "3", "7"});
  CHECK(printed(task, task.train().all()[0]) == Words{"3+\u00e9 =", "3\u00e9", "7"});
  CHECK(task.parse("3+\u00e9 =").iterations == 2);
  CHECK(task.print(task.parse("3 7 @4").problem) == "3 7");
  CHECK(error([&] { task.parse("3+x @2"); }) ==
        "problem \"3+x @2\": the token 'x' stands in none of the files: those that do are + \u00e9   = 3 7");
  CHECK(wrong(R"({"problem":["12","+"],"rounds":["1"],"answer":"1"})", "", "", Splitting::characters) ==
        "train.jsonl:1: \"problem\" has the token \"12\", but a token is one character: split the texts at whitespace, or write several tokens");
  CHECK(wrong(R"({"problem":"<pad>","rounds":["1"],"answer":"1"})", "", "", Splitting::characters) == "no error");  // five characters
}

TEST_CASE("length: the rounds, or what the files say") {
  const RecordedTask task = Data(R"({"problem":"a b","rounds":["b","a"],"answer":"b","length":7}
{"problem":"a","rounds":["b"],"answer":"b","length":2,"iterations":1,"more":{}}
)",
                                 "", R"({"problem":"b b b","iterations":4,"length":9})")
                                .load();
  CHECK(task.train().lengths() == std::vector<int>{2, 7});
  CHECK(task.train().of_length(7)[0].iterations == 2);
  CHECK(task.problems().of_length(9)[0].iterations == 4);
  CHECK(task.parse("a b").length == 7);
  CHECK(task.parse("b b b").iterations == 4);
}

TEST_CASE("generate draws from the training examples of that length, a pure function of the stream") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  std::set<Tokens> drawn;
  Random a{Key(1)}, b{Key(1)};
  for (int i = 0; i < 100; ++i) {
    const Example e = task.generate(1, a);
    CHECK(e == task.generate(1, b));
    CHECK(e.length == 1);
    drawn.insert(e.problem);
  }
  CHECK(drawn.size() == 2);
  for (int i = 0; i < 100; ++i) drawn.insert(task.generate(a).problem);
  CHECK(drawn.size() == 3);
  CHECK(draw(task, 2, a, Split::all).length == 2);
  std::string text = error([&] { task.generate(3, a); });
  CHECK(text.ends_with("train.jsonl has no example of length 3: its lengths are 1..2"));
  const std::string line = R"({"problem":"a","rounds":["b"],"answer":"b","length":)";
  text = error([&] { Data(line + "2}\n" + line + "9}").load().generate(3, a); });
  CHECK(text.ends_with("train.jsonl has no example of length 3: its lengths are 2..9, 2 of them"));
}

TEST_CASE("read is the inverse of text and takes whatever a model wrote") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  for (const ByLength* list : {&task.train(), &task.test(), &task.problems()})
    for (const Example& e : list->all()) {
      Example problem = e;
      problem.rounds = {{5, 6}};
      CHECK(task.read(problem, task.text(e)) == e);
      Tokens text = {1, 2};
      task.text(e, text);
      CHECK(text == task.text(e));
      CHECK(task.text_size(e) == text.size());
    }
  const Vocabulary v = task.vocabulary();
  const Example problem = task.parse("the ball is with ann . ann gives it to ben .");
  CHECK(v.spell(task.text(task.train().of_length(2)[0])) == "the ball is with ben <round> the ball is with cid <round> cid <eos>");
  const Token pad = Vocabulary::pad, sep = Vocabulary::sep, eos = Vocabulary::eos;
  CHECK(task.read(problem, {}).rounds.empty());
  CHECK(task.read(problem, {}).answer == pad);
  CHECK(task.read(problem, {5, 6, sep, 7}).answer == 7);  // no <eos>
  CHECK(task.read(problem, {7, eos, 8}).answer == 7);
  CHECK(task.read(problem, {7, eos, 8}).rounds.empty());
  CHECK(task.read(problem, {sep, sep}).rounds == std::vector<Tokens>{{}, {}});
  CHECK(task.read(problem, {5, 6, sep, 7, 8, eos}).rounds == std::vector<Tokens>{{5, 6}, {7, 8}});  // an answer is one token
  CHECK(task.read(problem, {5, 6, sep, 7, 8, eos}).answer == pad);
  CHECK(task.read(problem, {-7, 99, pad}).problem == problem.problem);
}

TEST_CASE("what a person types") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  const Example known = task.parse("  ann gives it to ben . ben gives it to cid .\tthe ball is with ann .\n");
  CHECK(known.problem == task.train().of_length(2)[0].problem);
  CHECK(known.iterations == 2);
  CHECK(known.rounds.empty());
  CHECK(known.answer == Vocabulary::pad);
  CHECK(task.parse("ann gives it to ben . ben gives it to cid . cid gives it to dan . the ball is with ann .").iterations == 3);
  CHECK(task.parse("the ball is with ann . ann gives it to ben . @4").iterations == 4);
  CHECK(task.parse("the ball is with ann . ann gives it to ben . @4").length == 1);
  const Example fresh = task.parse("ball . @12 ");
  CHECK(task.print(fresh.problem) == "ball .");
  CHECK(fresh.iterations == 12);
  CHECK(fresh.length == 12);
  CHECK(fresh.columns() == 2);

  const auto wrong = [&](std::string_view text) { return error([&] { task.parse(text); }); };
  CHECK(wrong("the bal is with ann @1") == "problem \"the bal is with ann @1\": the token 'bal' stands in none of the files: did you mean 'ball'?");
  CHECK(wrong("ann <sep> ben @1") ==
        "problem \"ann <sep> ben @1\": the token '<sep>' stands in none of the files: those that do are the ball is with ann . gives it to ben cid dan");
  CHECK(wrong("the ball") ==
        "problem \"the ball\" is none of the recorded problems: say how many rounds it takes, such as \" @5\" at its end for 5");
  CHECK(wrong("the ball @0") == "problem \"the ball @0\": the number of rounds is 0, but must be 1 to 1000");
  CHECK(wrong("the ball @1001") == "problem \"the ball @1001\": the number of rounds is 1001, but must be 1 to 1000");
  CHECK(wrong("the ball @99999999999") == "problem \"the ball @99999999999\": the number of rounds is 99999999999, but must be 1 to 1000");
  CHECK(contains(wrong("the ball @x"), "the token '@x' stands in none of the files"));
  CHECK(wrong("") == "problem \"\" is empty: write at least one token");
  CHECK(wrong(" @3") == "problem \" @3\" is empty: write at least one token");
  CHECK(wrong("the \xff\n@1") == "problem \"the ??@1\": byte 5 is not UTF-8: type it in UTF-8");
}

TEST_CASE("a problem that ends in @N is recorded as it is") {
  const RecordedTask task = Data(R"({"problem":"a @5","rounds":["a"],"answer":"a"})").load();
  CHECK(task.parse("a @5").problem.size() == 2);
  CHECK(task.parse("a @5").iterations == 1);
  CHECK(task.parse("a @5 @3").iterations == 3);
  CHECK(task.parse("a @4").problem.size() == 1);
}

TEST_CASE("solve looks up") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  for (const ByLength* list : {&task.train(), &task.test()})
    for (const Example& e : list->all()) CHECK(task.solve(e.problem) == e);
  CHECK(error([&] { task.solve({5, 5}); }).starts_with("the problem \"is is\" is not recorded in "));
  CHECK(error([&] { task.solve({5, 5}); }).ends_with("longer.jsonl: only recorded problems have a known solution"));
  const std::string text = error([&] { task.solve(task.problems().of_length(3)[0].problem); });
  CHECK(text.starts_with("the problem \"ann gives it to ben . ben gives it to cid . cid gives it to dan . the ball is with ann .\" is recorded "
                         "without rounds and answer in "));
  CHECK(text.ends_with("longer.jsonl: add them there"));
}

TEST_CASE("the verifier compares with what was recorded, and says what is not known") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  const Example truth = task.train().of_length(2)[0];
  CHECK(task.verify(truth).right());
  CHECK(task.verify(truth).known);

  Example slip = truth;
  slip.rounds[0].back() = truth.answer;
  Verdict verdict = task.verify(slip);
  CHECK(!verdict.steps[0].right);
  CHECK(verdict.steps[0].why == "expected the ball is with ben");
  CHECK(verdict.steps[1].right);
  CHECK(verdict.steps[1].why.empty());
  CHECK(verdict.answer_right);
  CHECK(verdict.complete);
  CHECK(!verdict.right());

  Example late = truth;
  late.rounds.push_back({});
  late.answer = -5;
  verdict = task.verify(late);
  CHECK(verdict.steps[2].why == "expected no round: there are 2");
  CHECK(!verdict.complete);
  CHECK(!verdict.answer_right);
  Example early = truth;
  early.rounds.pop_back();
  CHECK(task.verify(early).steps.size() == 1);
  CHECK(!task.verify(early).complete);

  Example unknown = task.problems().of_length(3)[0];
  unknown.rounds = {{5}, {}, {-1, 99}};
  unknown.answer = 5;
  verdict = task.verify(unknown);
  CHECK(!verdict.known);
  CHECK(verdict.complete);
  CHECK(!verdict.answer_right);
  CHECK(!verdict.right());
  REQUIRE(verdict.steps.size() == 3);
  for (const Step& step : verdict.steps) {
    CHECK(!step.right);
    CHECK(step.why == "not known");
  }
  CHECK(task.print({-1, 99, 3}) == "<?> <?> the");
  CHECK(!task.verify({}).known);
}

TEST_CASE("one problem with several chains: any of them is right") {
  const RecordedTask task = Data(R"({"problem":"a b c","rounds":["a b","c"],"answer":"c"}
{"problem":"a b c","rounds":["b c","c"],"answer":"c"}
{"problem":"a b c","rounds":["b c","c"],"answer":"c"}
)",
                                 "", R"({"problem":"a b c","iterations":2})")
                                .load();
  for (const Example& e : task.train().all()) CHECK(task.verify(e).right());
  Example mixed = task.train().all()[1];
  mixed.rounds[1] = {3};
  CHECK(task.verify(mixed).steps[0].right);
  CHECK(task.verify(mixed).steps[1].why == "expected c");
  CHECK(task.solve(mixed.problem) == task.train().all()[0]);
}

TEST_CASE("the answer of the rounds, where answers are the last token") {
  const RecordedTask last = Data(train_text, R"({"problem":"x","rounds":["y"],"answer":"z"})").load();  // the training data decide
  const Example& e = last.train().all()[0];
  CHECK(last.answer(e) == e.answer);
  CHECK(last.answer(last.test().all()[0]) == last.vocabulary().token("y"));
  Example nothing = e;
  nothing.rounds.back().clear();
  CHECK(last.answer(nothing) == Vocabulary::pad);
  nothing.rounds.clear();
  CHECK(last.answer(nothing) == Vocabulary::pad);
  const RecordedTask other = Data(train_text + R"({"problem":"x","rounds":["y"],"answer":"z"})").load();
  CHECK(other.answer(other.train().all()[0]) == Vocabulary::pad);
}

TEST_CASE("a row has room for the rounds of its problem, by a rule that looks at the problem alone") {
  const auto width = [](const Example& e) { return e.columns(); };
  const RecordedTask shorter = Data(train_text, test_text, problems_text).load();
  for (const ByLength* list : {&shorter.train(), &shorter.test(), &shorter.problems()})
    for (const Example& e : list->all()) CHECK(width(e) == static_cast<int>(e.problem.size()));

  const RecordedTask task = Data(R"({"problem":"a b c","rounds":["a b c d e","a"],"answer":"a"}
{"problem":"a b c d","rounds":["a","b"],"answer":"b"}
)",
                                 R"({"problem":"a","rounds":["a"],"answer":"b"})", R"({"problem":"a b","iterations":2}
{"problem":"a b c d a b c d","iterations":3}
)")
                                .load();
  CHECK(width(task.train().all()[0]) == 6);  // five tokens and a <pad>
  CHECK(width(task.train().all()[1]) == 7);
  CHECK(width(task.test().all()[0]) == 4);
  CHECK(width(task.problems().all()[0]) == 5);
  CHECK(width(task.problems().all()[1]) == 14);  // twice as long as any with rounds: twice the excess
  CHECK(width(task.parse("a a a @2")) == 6);
  CHECK(width(task.parse("a b c d a b c d")) == 14);
  CHECK(width(Data(R"({"problem":"a b","rounds":["b a"],"answer":"a"})").load().train().all()[0]) == 3);
  for (const Example& e : task.train().all())
    for (int t = 1; t <= e.iterations; ++t) {
      const auto placed = task.placement().place(e, t);
      CHECK(placed.front().token == Vocabulary::pad);
      std::vector<Token> row(static_cast<std::size_t>(e.columns()), Vocabulary::pad);
      for (const Placed& p : placed) row[static_cast<std::size_t>(p.column)] = p.token;
      CHECK(task.placement().read(e, t, row) == e.rounds[static_cast<std::size_t>(t) - 1]);
    }

  const Example largest = task.largest(2);
  CHECK(largest.problem.size() == 4);
  CHECK(largest.columns() == 7);
  CHECK(largest.iterations == 2);
  CHECK(largest.rounds[0].size() == 5);
  CHECK(largest.rounds[1].size() == 5);  // the problem "a b" has no rounds
  const Example longer = task.largest(3);
  CHECK(longer.columns() == 14);
  CHECK(longer.iterations == 3);
  CHECK(longer.rounds[2].size() == 10);
  CHECK(task.largest(100).columns() == 14);
}

TEST_CASE("the largest is at least as large as any of its length, and its rounds fit") {
  const RecordedTask task = Data(train_text, test_text, problems_text).load();
  for (const ByLength* list : {&task.train(), &task.test(), &task.problems()})
    for (const Example& e : list->all()) {
      const Example largest = task.largest(e.length);
      CHECK(largest.length == e.length);
      CHECK(largest.problem.size() >= e.problem.size());
      CHECK(largest.columns() >= e.columns());
      CHECK(largest.iterations >= e.iterations);
      CHECK(task.text_size(largest) >= task.text_size(e));
      for (int t = 1; t <= largest.iterations; ++t) CHECK_NOTHROW(task.placement().place(largest, t));
    }
  CHECK(task.largest(-1).problem.size() == 1);
}

TEST_CASE("data are named by their content") {
  const Data data(train_text, test_text, problems_text), same(train_text, test_text, problems_text), other(train_text + "\n", test_text);
  const std::string options = data.load().options();
  CHECK(options == same.load().options());
  CHECK(options.starts_with("tokens=whitespace train=3:"));
  CHECK(contains(options, " test=1:"));
  CHECK(contains(options, " problems=2:"));
  CHECK(other.load().options() != Data(train_text, test_text).load().options());
  CHECK(!contains(other.load().options(), "problems"));
  CHECK(Data(R"({"problem":"a","rounds":["b"],"answer":"b"})", "", "", Splitting::characters).load().options() ==
        "tokens=characters train=1:ab20838301aeeda0");
}

TEST_CASE("a line that is wrong: file, line, field, and what to do") {
  // Not JSON, not UTF-8, not an object.
  CHECK(third(R"({"problem" "a"})") == "train.jsonl:3: column 12: expected ':' after the key \"problem\": a line must be one JSON object, in UTF-8");
  CHECK(third(R"({"problem":"a)") == "train.jsonl:3: column 14 (end): expected '\"' at the end of the string: a line must be one JSON object, in UTF-8");
  CHECK(third("{\"problem\":\"a \xff\",\"rounds\":[\"b\"],\"answer\":\"b\"}") ==
        "train.jsonl:3: column 15: the string is not UTF-8: a line must be one JSON object, in UTF-8");
  CHECK(third(R"({"problem":"a","problem":"b"})") ==
        "train.jsonl:3: column 16: the key \"problem\" stands twice in one object: a line must be one JSON object, in UTF-8");
  CHECK(third("[1]") == R"(train.jsonl:3 must be an object, but is an array: write {"problem":...,"rounds":[...],"answer":...})");
  CHECK(third("3") == R"(train.jsonl:3 must be an object, but is a number: write {"problem":...,"rounds":[...],"answer":...})");

  // The problem.
  CHECK(third(R"({"rounds":["b"],"answer":"b"})") == "train.jsonl:3 has no \"problem\": add it, a string or a list of tokens");
  CHECK(third(R"({"problem":3,"rounds":["b"],"answer":"b"})") ==
        "train.jsonl:3: \"problem\" must be a string or a list of tokens, but is a number: write it in quotes");
  CHECK(third(R"({"problem":"  ","rounds":["b"],"answer":"b"})") == "train.jsonl:3: \"problem\" is empty: write at least one token");
  CHECK(third(R"({"problem":[],"rounds":["b"],"answer":"b"})") == "train.jsonl:3: \"problem\" is empty: write at least one token");
  CHECK(third(R"({"problem":["a",7],"rounds":["b"],"answer":"b"})") ==
        "train.jsonl:3: \"problem\" has 7, but tokens are strings: write it in quotes");
  CHECK(third(R"({"problem":["New York"],"rounds":["b"],"answer":"b"})") ==
        "train.jsonl:3: \"problem\" has the token \"New York\", but a token is a word without blanks: write several tokens, or join its words with '_'");
  CHECK(contains(third(R"({"problem":[""],"rounds":["b"],"answer":"b"})"), "has the token \"\", but a token is a word without blanks"));
  CHECK(third(R"({"problem":"a <round> b","rounds":["b"],"answer":"b"})") ==
        "train.jsonl:3: \"problem\" has the token <round>, which is reserved: spell it another way");
  CHECK(third(R"({"problem":"a <sep> b","rounds":["b"],"answer":"b"})") == "no error");  // an ordinary token, as `relay data` writes it
  CHECK(third(R"({"problem":"a\u0001","rounds":["b"],"answer":"b"})") ==
        "train.jsonl:3: \"problem\" has the token \"a\\u0001\", which has a control character: leave it out");
  CHECK(third(R"({"problem":"a","rounds":["b"],"answer":"b","tags":["x"],"id":7})") == "no error");  // names of somebody's own
  CHECK(third(R"({"problem":"a","rounds":["b"],"answers":"b"})") ==
        "train.jsonl:3 has the field \"answers\", which is not known: did you mean \"answer\"?");
  CHECK(contains(third(R"({"problem":"a","rounds":[["<pad>"]],"answer":"b"})"), "\"rounds\" has the token <pad>, which is reserved"));
  CHECK(contains(third(R"({"problem":"a","rounds":["b"],"answer":"<eos>"})"), "\"answer\" has the token <eos>, which is reserved"));

  // The rounds.
  CHECK(third(R"({"problem":"a","answer":"b"})") == "train.jsonl:3 has no \"rounds\", which training and test data need: add it");
  CHECK(third(R"({"problem":"a","iterations":2})") == "train.jsonl:3 has no \"rounds\", which training and test data need: add it");
  CHECK(third(R"({"problem":"a","rounds":"b","answer":"b"})") ==
        "train.jsonl:3: \"rounds\" must be a list of rounds, but is a string: write [\"...\"], even of one");
  CHECK(third(R"({"problem":"a","rounds":[],"answer":"b"})") == "train.jsonl:3: \"rounds\" is an empty list: write at least one round");
  CHECK(third(R"({"problem":"a","rounds":["b",""],"answer":"b"})") == "train.jsonl:3: \"rounds\": round 2 is empty: write at least one token");
  CHECK(third(R"({"problem":"a","rounds":["b","b",[]],"answer":"b"})") == "train.jsonl:3: \"rounds\": round 3 is empty: write at least one token");
  CHECK(third(R"({"problem":"a","rounds":[{}],"answer":"b"})") ==
        "train.jsonl:3: \"rounds\": round 1 must be a string or a list of tokens, but is an object: write it in quotes");
  std::string many = "\"b\"";
  for (int i = 0; i < 1000; ++i) many += ",\"b\"";
  CHECK(third(R"({"problem":"a","rounds":[)" + many + R"(],"answer":"b"})") == "train.jsonl:3: \"rounds\" has 1001 rounds, but may have 1000 at most");

  // The answer.
  CHECK(third(R"({"problem":"a","rounds":["b"]})") == "train.jsonl:3 has no \"answer\", which training and test data need: add it");
  CHECK(third(R"({"problem":"a","rounds":["b"],"answer":"b c"})") ==
        "train.jsonl:3: \"answer\" is \"b c\", which is 2 tokens, but must be one: leave the others to the last round");
  CHECK(contains(third(R"({"problem":"a","rounds":["b"],"answer":" "})"), "\"answer\" is \" \", which is 0 tokens, but must be one"));
  CHECK(third(R"({"problem":"a","rounds":["b"],"answer":7})") ==
        "train.jsonl:3: \"answer\" must be a string, but is a number: write its one token in quotes");
  const std::string chatty = third(R"({"problem":"a","rounds":["b"],"answer":")" + std::string(200, 'x') + "\u00e9 y\"}");
  CHECK(contains(chatty, "xxx..., which is 2 tokens"));
  CHECK(chatty.size() < 200);

  // The numbers.
  const auto with = [](const std::string& field) { return third(R"({"problem":"a","rounds":["b"],"answer":"b",)" + field + "}"); };
  CHECK(with("\"iterations\":1") == "no error");
  CHECK(with("\"iterations\":3") == "train.jsonl:3: \"iterations\" is 3, but there are 1 rounds: leave it out, or correct it");
  CHECK(with("\"iterations\":0") == "train.jsonl:3: \"iterations\" is 0, but must be a whole number from 1 to 1000");
  CHECK(with("\"iterations\":1.5") == "train.jsonl:3: \"iterations\" is 1.5, but must be a whole number from 1 to 1000");
  CHECK(with("\"iterations\":null") == "train.jsonl:3: \"iterations\" is null, but must be a whole number from 1 to 1000");
  CHECK(with("\"length\":\"2\"") == "train.jsonl:3: \"length\" is \"2\", but must be a whole number from 1 to 1000000");
  CHECK(with("\"length\":-1e300") == "train.jsonl:3: \"length\" is -1e+300, but must be a whole number from 1 to 1000000");
  CHECK(with("\"length\":1000001") == "train.jsonl:3: \"length\" is 1000001, but must be a whole number from 1 to 1000000");
  CHECK(with("\"length\":1") == "train.jsonl:3 has a \"length\", but train.jsonl:1 has none: write it on every line of all files, or on none");

  // The task.
  CHECK(with("\"task\":7") == "train.jsonl:3: \"task\" is 7, but must be the name of the task: a string that is not empty");
  CHECK(with("\"task\":\"\"") == "train.jsonl:3: \"task\" is \"\", but must be the name of the task: a string that is not empty");
  CHECK(with("\"task\":\"x\"") == "no error");
}

TEST_CASE("problems to be solved may lack rounds and answer, both") {
  const auto longer = [](const std::string& line) { return wrong(train_text, "", line); };
  CHECK(longer(R"({"problem":"ann","iterations":2})") == "no error");
  CHECK(longer(R"({"problem":"ann","rounds":["ben"],"answer":"ben"})") == "no error");
  CHECK(longer(R"({"problem":"ann"})") ==
        R"(longer.jsonl:1 has neither "rounds" nor "iterations": add "iterations", the number of rounds that the problem takes)");
  CHECK(longer(R"({"problem":"ann","iterations":1001})") == "longer.jsonl:1: \"iterations\" is 1001, but must be a whole number from 1 to 1000");
  CHECK(longer(R"({"problem":"ann","iterations":2,"answer":"ben"})") ==
        R"(longer.jsonl:1 has no "rounds": write both "rounds" and "answer", or neither)");
  CHECK(longer(R"({"problem":"ann","rounds":["ben"]})") == R"(longer.jsonl:1 has no "answer": write both "rounds" and "answer", or neither)");
  CHECK(longer(R"({"problem":"ann","rounds":[],"answer":"ben"})") == "longer.jsonl:1: \"rounds\" is an empty list: write at least one round");
  CHECK(longer(R"({"problem":"ann","iterations":2,"length":2})") ==
        "longer.jsonl:1 has a \"length\", but train.jsonl:1 has none: write it on every line of all files, or on none");
}

TEST_CASE("files that are wrong") {
  CHECK(wrong(" \n\n") == R"(train.jsonl has no examples: write one JSON object a line, such as {"problem":"...","rounds":["...","..."],"answer":"..."})");
  CHECK(wrong(train_text, "", "\n") == R"(longer.jsonl has no examples: write one JSON object a line, such as {"problem":"...","iterations":3})");
  CHECK(error([] { RecordedTask::load({.data = "/nowhere/train.jsonl"}); }) ==
        "cannot read /nowhere/train.jsonl: No such file or directory: check the path, and that its folder exists");
  CHECK(error([] { RecordedTask::load({.data = "/tmp"}); }) == "cannot read /tmp: Is a directory: give the path of a file, not of a folder");

  const std::string a = R"({"problem":"a","rounds":["b"],"answer":"b","task":"x"})", b = R"({"problem":"b","rounds":["b"],"answer":"b","task":"y\n"})";
  CHECK(wrong(a + "\n" + b) == R"(train.jsonl:2: "task" is "y\n", but train.jsonl:1 has "x": give the examples of one task)");
  CHECK(wrong(a, b) == R"(test.jsonl:1: "task" is "y\n", but train.jsonl:1 has "x": give the examples of one task)");
}

TEST_CASE("what is recorded must make sense as a whole") {
  const std::string other = R"({"problem":"x","rounds":["y"],"answer":"y"})" "\n";
  const std::string line = R"({"problem":"the ball is with cid . cid gives it to ann .","rounds":["the ball is with ann"],"answer":"ann"})";
  CHECK(wrong(train_text, other + line) ==
        "train.jsonl:4 and test.jsonl:2 have the same problem: a test problem may stand in no other file: remove one of them");
  CHECK(wrong(train_text, line + "\n" + line) ==
        "train.jsonl:4 and test.jsonl:1 have the same problem: a test problem may stand in no other file: remove one of them");
  CHECK(wrong(train_text, other, R"({"problem":["x"],"iterations":1})") ==
        "test.jsonl:1 and longer.jsonl:1 have the same problem: a test problem may stand in no other file: remove one of them");
  CHECK(wrong(train_text + line + "\n" + line, other + other, line + "\n") == "no error");  // repeated, and a problem that is trained on

  CHECK(wrong(train_text + R"({"problem":"the ball is with cid . cid gives it to ann .","rounds":["ann","ann"],"answer":"ann"})") ==
        "train.jsonl:4 and train.jsonl:5 have the same problem, but it takes 1 rounds there and 2 here: the number of rounds must follow from the "
        "problem alone: correct one of them");
  CHECK(wrong(train_text + R"({"problem":"the ball is with cid . cid gives it to ann .","rounds":["ann"],"answer":"ben"})") ==
        "train.jsonl:4 and train.jsonl:5 have the same problem, but the answer is \"ann\" there and \"ben\" here: correct one of them");
  CHECK(contains(wrong(train_text, "", R"({"problem":"x","iterations":1}
{"problem":"x","rounds":["y"],"answer":"y"}
{"problem":"x","rounds":["y"],"answer":"z"})"),
                 "longer.jsonl:2 and longer.jsonl:3 have the same problem, but the answer is \"y\" there and \"z\" here"));
}

TEST_CASE("whatever a file holds, it is read or refused in one line") {
  Random random{Key(9)};
  const std::string good = train_text + R"({"task":"x","problem":["a","\u00e9"],"rounds":[["b"]],"answer":"b","iterations":1})" "\n";
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (int change = 1 + random.below(3); change > 0; --change) {
      const auto at = static_cast<std::size_t>(random.below(static_cast<int>(text.size())));
      if (const int kind = random.below(3); kind == 0)
        text[at] = static_cast<char>(random.below(256));
      else if (kind == 1)
        text.erase(at, static_cast<std::size_t>(1 + random.below(20)));
      else
        text.insert(at, text.substr(static_cast<std::size_t>(random.below(static_cast<int>(text.size()))), 10));
    }
    const std::string said = wrong(text, "", "", random.below(2) == 0 ? Splitting::whitespace : Splitting::characters);
    if (said == "no error") continue;
    ++refused;
    CHECK(said.starts_with("train.jsonl"));
    CHECK(said.find_first_of("\n\r\t") == said.npos);
    CHECK(said.size() < 300);
  }
  CHECK(refused > 1000);
}

TEST_CASE("copies share what was recorded; chains are written and read back") {
  Data data(train_text, test_text, problems_text);
  RecordedTask copy = data.load();
  {
    const RecordedTask first = data.load();
    copy = first;
    CHECK(&copy.train() == &first.train());
  }
  CHECK(copy.solve(copy.train().all()[0].problem) == copy.train().all()[0]);
  Example written = copy.problems().of_length(3)[0];
  written.rounds = {{}, {3}, {4, 5}};
  write_jsonl(data.folder / "chains.jsonl", copy.name, copy.vocabulary(), std::span(&written, 1));
  const Example again = read_jsonl(data.folder / "chains.jsonl", copy.name, copy.vocabulary()).front();
  CHECK(again.rounds == written.rounds);
  CHECK(again.answer == written.answer);
  CHECK(again.length == 3);
  CHECK(copy.read(again, copy.text(again)) == again);
}
