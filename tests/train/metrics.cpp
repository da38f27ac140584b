#include <relay/train/metrics.hpp>

#include <string>

#include <doctest/doctest.h>

using namespace relay;

namespace {

std::string line(const char* stage, int step) {
  return message("{\"stage\":\"", stage, "\",\"step\":", step, ",\"loss\":1}\n");
}

StepReport report(int step, double loss, TokenLoss value, TokenLoss structure, TokenLoss answer) {
  StepReport r;
  r.step = step;
  r.losses.objective = loss;
  r.losses.value = value;
  r.losses.structure = structure;
  r.losses.answer = answer;
  r.rate = 0.5 * step;
  r.gradient_norm = step;
  r.samples = 10;
  return r;
}

}  // namespace

TEST_CASE("a meter's means") {
  Meter meter;
  CHECK(meter.objective() == 0);
  CHECK(meter.accuracy() == 0);
  meter.add(report(1, 3, {.sum = 4, .count = 2, .right = 1}, {.sum = 1, .count = 2, .right = 2}, {}));
  meter.add(report(2, 1, {.sum = 2, .count = 4, .right = 3}, {}, {}));
  CHECK(meter.objective() == 2);
  CHECK(meter.samples == 20);
  CHECK(meter.losses.value.mean() == 1);
  CHECK(meter.losses.structure.mean() == 0.5);
  CHECK(meter.accuracy() == 6.0 / 8);  // of the chain's tokens
  meter.add(report(3, 2, {}, {}, {.sum = 1, .count = 4, .right = 1}));
  CHECK(meter.accuracy() == 0.25);  // of the answers, where there are any
}

TEST_CASE("a line per report, the losses of value and structure tokens apart") {
  const MetricsLog log("written.jsonl");
  Meter meter;
  meter.add(report(1, 3, {.sum = 4, .count = 2, .right = 1}, {.sum = 1, .count = 2, .right = 2},
                   {.sum = 3, .count = 4, .right = 2}));
  meter.add(report(2, 1, {}, {}, {}));
  log.write("looped_aligned", meter, 1.5);
  CHECK(
      read_file("written.jsonl") ==
      R"({"stage":"looped_aligned","step":2,"samples":20,"loss":2,"value_loss":2,"structure_loss":0.5,"answer_loss":0.75,)"
      R"("accuracy":0.5,"rate":1,"gradient_norm":1.5,"seconds":1.5})"
      "\n");
  Meter answers;
  answers.add(report(4, 1, {}, {}, {.sum = 1, .count = 1, .right = 1}));
  log.write("looped_vanilla", answers, 2);
  const std::string text = read_file("written.jsonl");
  const Json second = parse_json(std::string_view(text).substr(text.find('\n') + 1), "line 2");
  CHECK(second.at("step").as_integer() == 4);
  CHECK(second.find("value_loss") == nullptr);
  CHECK(second.find("structure_loss") == nullptr);
  CHECK(second.at("answer_loss").as_number() == 1);
}

TEST_CASE("rewinding drops what the stage wrote after the step, and nothing else") {
  const MetricsLog log("rewound.jsonl");
  const std::string first = line("a", 50) + line("a", 100);
  CHECK_NOTHROW(log.rewind("a", 0));  // no file
  CHECK(!exists("rewound.jsonl"));
  const auto rewound = [&](const std::string& text, const char* stage, int step) {
    write_file_atomically("rewound.jsonl", text);
    log.rewind(stage, step);
    return read_file("rewound.jsonl");
  };
  CHECK(rewound(first + line("b", 50) + line("b", 100), "b", 50) == first + line("b", 50));
  CHECK(rewound(first + line("b", 50), "b", 50) == first + line("b", 50));
  CHECK(rewound(first + line("b", 50), "b", 49) == first);
  CHECK(rewound(first + line("b", 50), "b", 0) == first);
  CHECK(rewound(first + line("b", 50), "c", 0) == first + line("b", 50));
  CHECK(rewound(line("b", 50) + first, "b", 0) == first);
  CHECK(rewound("", "b", 0) == "");
}

TEST_CASE("a half-written last line is dropped, wherever it was cut") {
  const MetricsLog log("half.jsonl");
  const std::string whole = line("a", 50), last = line("b", 50);
  for (std::size_t cut = 0; cut < last.size(); ++cut) {
    write_file_atomically("half.jsonl", whole + last.substr(0, cut));
    log.rewind("b", 100);
    CHECK(read_file("half.jsonl") == whole);
  }
  write_file_atomically("half.jsonl", "{\"sta");
  log.rewind("a", 0);
  CHECK(read_file("half.jsonl") == "");
}

TEST_CASE("a damaged log is an error, and stays as it is") {
  const MetricsLog log("damaged.jsonl");
  for (const std::string text :
       {"no JSON\n", "\n", "{\"step\":50}\n", "[]\n", "{\"stage\":\"a\",\"step\":\"x\"}\n", "{\"stage\":\"a\"}\n"}) {
    write_file_atomically("damaged.jsonl", text + line("a", 100));
    CHECK_THROWS_AS(log.rewind("a", 0), Error);
    CHECK(read_file("damaged.jsonl") == text + line("a", 100));
  }
}

TEST_CASE("a meter comes back from a checkpoint's words; too few numbers, or none, are named") {
  Meter meter;
  meter.steps = 3;
  meter.samples = 96;
  meter.gradient_norm = 0.1;
  meter.losses.objective = 1.25;
  meter.losses.value.add(0.3, true);
  meter.losses.structure.add(0.7, false);
  const std::string text = write_meter(meter);
  CHECK(write_meter(read_meter(text, "f")) == text);
  const Meter again = read_meter(text, "f");
  CHECK((again.steps == 3 && again.samples == 96 && again.losses.value.right == 1 && again.losses.structure.sum == 0.7));
  const auto error = [](std::string_view words) {
    try {
      read_meter(words, "f");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(error("[1,2]") == "f has too few numbers: give a checkpoint of this run");
  CHECK(error("").starts_with("f"));
}
