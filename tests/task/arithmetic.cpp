#include <relay/task/arithmetic.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using namespace relay;

namespace {

// A second, slow implementation that shares nothing with the first: text -> tree with its brackets -> recursion.
struct Tree {
  char op = 'n';  // n: a number, b: brackets around left
  int value = 0;
  std::unique_ptr<Tree> left, right;
};
using Node = std::unique_ptr<Tree>;

Node node(char op, Node left, Node right = nullptr) {
  auto out = std::make_unique<Tree>();
  out->op = op, out->left = std::move(left), out->right = std::move(right);
  return out;
}

Node leaf(int value) {
  auto out = std::make_unique<Tree>();
  out->value = value;
  return out;
}

struct Reader {
  std::string_view text;
  std::size_t at = 0;
  char peek() const { return at < text.size() ? text[at] : ' '; }
  Node sum() {
    Node out = product();
    while (peek() == '+' || peek() == '-') {
      const char op = text[at++];
      out = node(op, std::move(out), product());
    }
    return out;
  }
  Node product() {
    Node out = factor();
    while (peek() == '*' || peek() == '/') {
      const char op = text[at++];
      out = node(op, std::move(out), factor());
    }
    return out;
  }
  Node factor() {
    if (peek() == '(') {
      ++at;
      Node inside = sum();
      REQUIRE(text[at++] == ')');
      return node('b', std::move(inside));
    }
    int value = 0;
    REQUIRE((peek() >= '0' && peek() <= '9'));
    while (peek() >= '0' && peek() <= '9') value = value * 10 + (text[at++] - '0');
    return leaf(value);
  }
};

std::optional<int> calculate(char op, int a, int b, int p) {
  if (op == '+') return (a + b) % p;
  if (op == '-') return (a + p - b) % p;
  if (op == '*') return a * b % p;
  for (int q = 0; q < p; ++q)
    if (b != 0 && q * b % p == a) return q;
  return std::nullopt;
}

std::optional<int> evaluate(const Tree& e, int p) {
  if (e.op == 'n') return e.value;
  if (e.op == 'b') return evaluate(*e.left, p);
  const auto a = evaluate(*e.left, p), b = evaluate(*e.right, p);
  return a && b ? calculate(e.op, *a, *b, p) : std::nullopt;
}

std::string print(const Tree& e) {
  if (e.op == 'n') return std::to_string(e.value);
  if (e.op == 'b') return "(" + print(*e.left) + ")";
  return print(*e.left) + e.op + print(*e.right);
}

/// One reduction: the first operator, left to right, whose operands are numbers already; brackets round a number
/// vanish.
bool step(Node& e, int p) {
  if (e->op == 'n') return false;
  if (step(e->left, p)) {
    if (e->op == 'b' && e->left->op == 'n') e = std::move(e->left);
    return true;
  }
  if (e->op == 'b') return false;
  if (step(e->right, p)) return true;
  e = leaf(calculate(e->op, e->left->value, e->right->value, p).value());
  return true;
}

/// A random tree in which brackets stand where they must, and sometimes where they need not.
Node random_tree(int operators, int p, Random& random) {
  Node out;
  if (operators == 0) {
    out = leaf(random.below(p));
  } else {
    const char op = "+-*/"[random.below(4)];
    const int left = random.below(operators);
    Node a = random_tree(left, p, random), b = random_tree(operators - 1 - left, p, random);
    if (a->op != 'n' && a->op != 'b') a = node('b', std::move(a));
    if (b->op != 'n' && b->op != 'b') b = node('b', std::move(b));
    out = node(op, std::move(a), std::move(b));
  }
  for (int redundant = random.below(3); redundant == 0; redundant = random.below(3)) out = node('b', std::move(out));
  return out;
}

std::vector<std::string> printed(const Arithmetic& task, const Example& example) {
  std::vector<std::string> out = {task.print(example.problem)};
  for (const Tokens& round : example.rounds) out.push_back(task.print(round));
  return out;
}

Tokens written(std::string_view text) {  // any text, digit by digit
  constexpr std::string_view symbols = "   +-*/()=0123456789";
  Tokens out;
  for (const char c : text) out.push_back(static_cast<Token>(symbols.find(c)));
  return out;
}

std::string error(auto&& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

Example solved(const Arithmetic& task, std::string_view text) { return task.solve(task.parse(text).problem); }

}  // namespace

TEST_CASE("the chains of the papers, to the token") {
  using Chain = std::vector<std::string>;
  CHECK(printed({}, solved({}, "3*2+6/3")) == Chain{"3*2+6/3=", "6+6/3=", "6+2=", "8"});
  // with plain integers: 15, 7+10-12, 17-12, 15/5, 3; the modulus is large enough to show them
  CHECK(printed({.modulus = 17}, solved({.modulus = 17}, "(6+9)/(7+2*5-4*3)")) ==
        Chain{"(6+9)/(7+2*5-4*3)=", "15/(7+2*5-4*3)=", "15/(7+10-4*3)=", "15/(0-4*3)=", "15/(0-12)=", "15/5=", "3"});
  CHECK(printed({.modulus = 19}, solved({.modulus = 19}, "(6+9)/(7+2*5-4*3)")) ==
        Chain{"(6+9)/(7+2*5-4*3)=", "15/(7+2*5-4*3)=", "15/(7+10-4*3)=", "15/(17-4*3)=", "15/(17-12)=", "15/5=", "3"});
  CHECK(printed({}, solved({}, "(6+9)/(7+2*5-4*3)")) ==
        Chain{"(6+9)/(7+2*5-4*3)=", "4/(7+2*5-4*3)=", "4/(7+10-4*3)=", "4/(6-4*3)=", "4/(6-1)=", "4/5=", "3"});
  CHECK(printed({}, solved({}, "(1+2)*3")) == Chain{"(1+2)*3=", "3*3=", "9"});
}

TEST_CASE("generated examples agree with a second implementation") {
  Random random{Key(1)};
  for (int i = 0; i < 100000; ++i) {
    const int moduli[] = {2, 3, 5, 7, 11};
    const Arithmetic task{.modulus = moduli[random.below(5)]};
    const int length = 1 + random.below(i % 50 == 0 ? 40 : 9);
    const Example example = task.generate(length, random);
    REQUIRE(example.length == length);
    REQUIRE(example.iterations == length);
    REQUIRE(example.rounds.size() == static_cast<std::size_t>(length));
    REQUIRE(task.iterations(example.problem) == length);
    REQUIRE(example.rounds.back() == Tokens{example.answer});
    for (const Tokens& round : example.rounds) REQUIRE(round.size() < example.problem.size());

    const std::string problem = task.print(example.problem);
    Reader reader{problem};
    Node e = reader.sum();
    REQUIRE(reader.at + 1 == problem.size());
    REQUIRE(problem.back() == '=');
    REQUIRE(task.print({example.answer}) == std::to_string(evaluate(*e, task.modulus).value()));
    for (std::size_t t = 0; t < example.rounds.size(); ++t) {
      REQUIRE(step(e, task.modulus));
      REQUIRE(task.print(example.rounds[t]) == print(*e) + (e->op == 'n' ? "" : "="));
    }
    REQUIRE(e->op == 'n');

    REQUIRE(task.solve(example.problem) == example);
    REQUIRE(task.parse(problem).problem == example.problem);  // the generator's form is the parser's
    REQUIRE(task.read(task.parse(problem), task.text(example)) == example);
    Tokens text{1, 2, 3};
    task.text(example, text);
    REQUIRE(text == task.text(example));
    REQUIRE(task.text_size(example) == text.size());
    REQUIRE(task.verify(example).right());
  }
}

TEST_CASE("what people type is brought into the generator's form without changing its value") {
  Random random{Key(2)};
  int divisions_by_zero = 0;
  for (int i = 0; i < 20000; ++i) {
    const int moduli[] = {2, 3, 5, 7, 11};
    const Arithmetic task{.modulus = moduli[random.below(5)]};
    const int operators = 1 + random.below(8);
    const Node tree = random_tree(operators, task.modulus, random);
    const std::string text = print(*tree);
    const std::optional<int> value = evaluate(*tree, task.modulus);
    if (!value) {
      ++divisions_by_zero;
      REQUIRE(error([&] { task.parse(text); }).find(" divides by zero: ") != std::string::npos);
      continue;
    }
    const Example problem = task.parse(text);
    REQUIRE(problem.rounds.empty());
    REQUIRE(problem.answer == Vocabulary::pad);
    REQUIRE(problem.length == operators);
    const Example example = task.solve(problem.problem);
    REQUIRE(task.print({example.answer}) == std::to_string(*value));
    REQUIRE(task.parse(task.print(problem.problem)) == problem);
    std::string canonical = task.print(problem.problem);
    CHECK(std::count(canonical.begin(), canonical.end(), '(') <= std::count(text.begin(), text.end(), '('));
  }
  CHECK(divisions_by_zero > 1000);
  CHECK(divisions_by_zero < 15000);
  for (int a = 0; a < 11; ++a)
    for (int b = 1; b < 11; ++b)
      for (int c = 1; c < 11; ++c)
        for (const char* form :
             {"a/(b*c)", "a/(b/c)", "a-(b-c)", "a-(b+c)", "a*(b/c)", "(a+b)*c", "a-b*(b-c)+a", "(a*b)/(c*c)"}) {
          std::string text = form;
          for (const auto& [name, n] : {std::pair{'a', a}, {'b', b}, {'c', c}})
            for (std::size_t at; (at = text.find(name)) != text.npos;) text.replace(at, 1, std::to_string(n));
          REQUIRE(Arithmetic().print({solved({}, text).answer}) == std::to_string(*evaluate(*Reader{text}.sum(), 11)));
        }
}

// A second implementation of the generator, in Python, gives 42.3 and 355.4 at 15 operators, 69.9 and 940.7 at 25
// (standard error 0.4 and 1.2); the paper prints 42 and 349, 70 and 924, the sequences two per cent shorter.
TEST_CASE("problems and sequences are as long as another implementation's and the paper's") {
  const Arithmetic task;
  struct Sizes {
    int length;
    double problem, sequence, paper_problem, paper_sequence;
  };
  for (const Sizes& want : {Sizes{15, 42.3, 355.4, 42, 349}, Sizes{25, 69.9, 940.7, 70, 924}}) {
    Random random{Key(3)};
    const int n = 4000;
    double problem = 0, sequence = 0;
    for (int i = 0; i < n; ++i) {
      const Example example = task.generate(want.length, random);
      problem += static_cast<double>(example.problem.size()) / n;
      sequence += static_cast<double>(example.problem.size() + task.text(example).size()) / n;
    }
    CAPTURE(want.length);
    CHECK(std::abs(problem / want.problem - 1) < 0.01);
    CHECK(std::abs(sequence / want.sequence - 1) < 0.01);
    CHECK(std::abs(problem / want.paper_problem - 1) < 0.02);
    CHECK(std::abs(sequence / want.paper_sequence - 1) < 0.025);
  }
  Random random{Key(4)};
  std::size_t longest = 0;
  for (int i = 0; i < 50000; ++i) longest = std::max(longest, task.generate(15, random).problem.size());
  CHECK(longest >= 50);  // the paper: 52
  CHECK(longest <= 58);
}

TEST_CASE("generation: every operator and every answer, a pure function of the stream, long problems too") {
  const Arithmetic task;
  Random random{Key(5)};
  std::vector<int> operators(4), answers(11);
  for (int i = 0; i < 20000; ++i) {
    const Example example = task.generate(1, random);
    ++operators[static_cast<std::size_t>(example.problem[1] - expression::plus)];
    ++answers[static_cast<std::size_t>(example.answer - expression::zero)];
  }
  for (const int count : answers) CHECK(std::abs(count - 20000 / 11) < 250);
  CHECK(std::abs(operators[0] - operators[1]) < 500);
  CHECK(operators[2] > 4000);  // fewer: a draw that has no b is drawn again
  CHECK(operators[3] > 4000);
  Random a{Key(6)}, b{Key(6)};
  for (int i = 1; i < 50; ++i) CHECK(task.generate(i, a) == task.generate(i, b));
  CHECK(task.generate(1000, a).rounds.size() == 1000);
  CHECK(Arithmetic{.modulus = 997}.generate(20, a).rounds.size() == 20);
}

TEST_CASE("bad moduli and lengths are refused") {
  for (const int modulus : {-3, 0, 1, 4, 9, 15, 991 + 2, 1009})
    CHECK(error([&] { Arithmetic{.modulus = modulus}.check(); }) ==
          "arithmetic: the modulus is " + std::to_string(modulus) + ", but must be a prime between 2 and 997");
  CHECK_NOTHROW(Arithmetic{.modulus = 997}.check());
  CHECK_THROWS_AS((void)Arithmetic{.modulus = 4}.vocabulary(), Error);
  Random random{Key(7)};
  for (const int length : {-1, 0, 1001, 2147483647})
    CHECK(error([&] { Arithmetic().generate(length, random); }) ==
          "arithmetic: the length is " + std::to_string(length) +
              ", but must be a number of operators between 1 and 1000");
}

TEST_CASE("the vocabulary spells what print prints") {
  const Arithmetic task{.modulus = 13};
  const Vocabulary vocabulary = task.vocabulary();
  CHECK(vocabulary.size() == 23);
  for (Token t = 0; t < vocabulary.size(); ++t) {
    CHECK(task.print({t}) == vocabulary.spelling(t));
    CHECK(vocabulary.is_value(t) == expression::is_number(t));
  }
}

TEST_CASE("a division by zero is an error that names the step and points at the character") {
  const Arithmetic task;
  CHECK(error([&] { task.parse("1/(2-2)"); }) ==
        "expression \"1/(2-2)\": column 2 ('/'): step 2 divides by zero: 1/0=");
  CHECK(error([&] { task.parse("1/0"); }) == "expression \"1/0\": column 2 ('/'): step 1 divides by zero: 1/0=");
  CHECK(error([&] { task.parse("(((4))) + 3*( 5/(6+5) )"); }) ==
        "expression \"(((4))) + 3*( 5/(6+5) )\": column 16 ('/'): step 3 divides by zero: 4+4/0=");
  CHECK(error([&] { task.solve(written("2+1/(2-2)=")); }) ==
        "arithmetic: step 2 of 2+1/(2-2)= divides by zero: 2+1/0=");
}

TEST_CASE("solve refuses what is no problem") {
  const Arithmetic task;
  for (const char* bad : {"", "=", "3=", "1+2", "1+=", "(1+2=", "(3)+2=", "1 2=", "1+2==", "1+2=3"})
    CHECK_MESSAGE(error([&] { task.solve(written(bad)); }).starts_with("arithmetic: the problem \""), bad);
  CHECK_THROWS_AS(Arithmetic{.modulus = 5}.solve(written("1+7=")), Error);
  CHECK(task.print({task.solve(written("(2*3)+4=")).answer}) == "10");  // brackets nobody needs do no harm
}

TEST_CASE("read is the inverse of text and takes whatever a model wrote") {
  const Arithmetic task;
  const Example problem = task.parse("(1+2)*3");
  const auto read = [&](std::string_view text, bool end) {
    Tokens tokens = written(text);
    if (end) tokens.push_back(Vocabulary::eos);
    return task.read(problem, tokens);
  };
  CHECK(read("3*3=9", true) == solved(task, "(1+2)*3"));
  CHECK(read("3*3=9", false) == solved(task, "(1+2)*3"));
  CHECK(read("", true) == problem);
  CHECK(read("", false) == problem);
  CHECK(read("3*3=", true).rounds.size() == 1);
  CHECK(read("3*3=", true).answer == Vocabulary::pad);
  CHECK(read("==9 9", true).rounds.size() == 3);
  CHECK(task.read(problem, {Vocabulary::eos, expression::number(9)}) == problem);
  CHECK(task.read(problem, {-7, 99, Vocabulary::pad}).answer == Vocabulary::pad);
  CHECK(read("3*3=9", true).problem == problem.problem);
}

TEST_CASE("the verifier judges each round against the one before it as written") {
  const Arithmetic task;
  const auto judge = [&](std::string_view problem, const std::vector<std::string>& rounds) {
    Example example = task.parse(problem);
    for (const std::string& round : rounds) example.rounds.push_back(written(round));
    if (!rounds.empty() && !rounds.back().empty()) example.answer = example.rounds.back().back();
    return task.verify(example);
  };
  const auto right = [](const Verdict& verdict) {
    std::string out;
    for (const Step& s : verdict.steps) {
      out += s.right ? '+' : '-';
      CHECK(s.right == s.why.empty());
    }
    return out;
  };

  const Verdict good = judge("1+2*3-4", {"1+6-4=", "7-4=", "3"});
  CHECK(right(good) == "+++");
  CHECK(good.right());

  const Verdict slip = judge("1+2*3-4", {"1+5-4=", "6-4=", "2"});  // one slip, then right from there
  CHECK(right(slip) == "-++");
  CHECK(slip.steps[0].why == "expected 1+6-4=");
  CHECK(slip.complete);
  CHECK(!slip.answer_right);

  CHECK(right(judge("1+2*3-4", {"3*3-4=", "9-4=", "5"})) == "-++");  // the wrong operator first
  CHECK(right(judge("1+2*3-4", {"1+6-4", "7-4=", "3"})) == "-++");   // "=" forgotten
  CHECK(judge("1+2*3-4", {"1+6-4", "7-4=", "3"}).answer_right);
  CHECK(right(judge("1+2*3-4", {"1+6-4=", "7-4=", "3="})) == "++-");  // "=" too many
  CHECK(right(judge("1+2*3-4", {"1+6-=", "7-4=", "3"})) == "-++");    // malformed: what should stand there counts
  CHECK(right(judge("1+2*3-4", {"", "7-4=", "3"})) == "-++");
  CHECK(right(judge("1+2*3-4", {"))((==", "7-4=", "4"})) == "-+-");
  CHECK(judge("1+2*3-4", {"))((==", "7-4=", "4"}).steps[2].why == "expected 3");
  CHECK(right(judge("1+2*3-4", {"+", "+", "+"})) == "---");
  CHECK(judge("1+2*3-4", {"+", "+", "+"}).steps[1].why == "expected 7-4=");

  const Verdict early = judge("1+2*3-4", {"3"});
  CHECK(right(early) == "-");
  CHECK(early.answer_right);
  CHECK(!early.complete);
  CHECK(!early.right());

  const Verdict late = judge("1+2", {"3", "3", "2"});
  CHECK(right(late) == "+--");
  CHECK(late.steps[1].why == "expected no round: the one before is the answer, 3");
  CHECK(!late.complete);

  const Verdict zero = judge("8/(1+3)+1", {"8/0+1=", "5+1=", "6"});
  CHECK(right(zero) == "--+");
  CHECK(zero.steps[0].why == "expected 8/4+1=");
  CHECK(zero.steps[1].why == "expected no round: the one before divides by zero, 8/0+1");
  CHECK(right(judge("8/(1+3)+1", {"8/0+1=", "", ")", "6"})) == "----");

  CHECK(judge("1+2", {}).steps.empty());
  CHECK(!judge("1+2", {}).right());
}

TEST_CASE("the verifier never throws") {
  Random random{Key(8)};
  for (int i = 0; i < 20000; ++i) {
    const Arithmetic task{.modulus = 5};
    Example example = task.generate(1 + random.below(4), random);
    for (int change = random.below(6); change >= 0; --change) {
      Tokens& tokens =
          random.below(5) == 0
              ? example.problem
              : example.rounds[static_cast<std::size_t>(random.below(static_cast<int>(example.rounds.size())))];
      const int at = random.below(static_cast<int>(tokens.size()) + 1);
      if (at < static_cast<int>(tokens.size()))
        tokens[static_cast<std::size_t>(at)] = random.below(18) - 1;
      else if (random.below(2) == 0)
        tokens.push_back(random.below(18) - 1);
      else
        tokens.resize(tokens.size() / 2);
    }
    if (random.below(9) == 0) example.answer = -1;
    const Verdict verdict = task.verify(example);
    REQUIRE(verdict.steps.size() == example.rounds.size());
    for (const Step& s : verdict.steps) REQUIRE(s.right == s.why.empty());
  }
  Example nothing;
  nothing.answer = -1;
  nothing.rounds = {{}, {-1}, {100}};
  CHECK(!Arithmetic().verify(nothing).right());
  nothing.problem = written("1/0=");
  CHECK(!Arithmetic().verify(nothing).answer_right);
}
