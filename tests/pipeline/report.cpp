#include <relay/pipeline/report.hpp>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "../io/scratch.hpp"

using namespace relay;

namespace {

const char* const models[] = {"looped_aligned", "looped_vanilla", "ar", "ar_relay", "ar_self_loop", "ar_self_truth", "a_model_of_my_own"};

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

/// What stands between two words, from the first place of the first.
std::string between(std::string_view text, std::string_view before, std::string_view after) {
  const std::size_t begin = text.find(before);
  REQUIRE_MESSAGE(begin != text.npos, before);
  const std::size_t from = begin + before.size(), end = text.find(after, from);
  REQUIRE(end != text.npos);
  return std::string(text.substr(from, end - from));
}

double attribute(std::string_view tag, std::string_view name) { return std::atof(between(tag, message(" ", name, "=\""), "\"").c_str()); }

/// An empty text, or what is not well formed: every element closed, in order; attributes quoted; no < or & on its own; ids unique.
std::string ill_formed(std::string_view html) {
  std::vector<std::string> open, ids;
  const auto is_void = [](std::string_view name) {
    for (const std::string_view known : {"meta", "link", "input", "br", "!DOCTYPE"})
      if (name == known) return true;
    return false;
  };
  for (std::size_t at = 0; at < html.size();) {
    const std::string here(html.substr(at, 60));
    if (html[at] == '&') {
      const std::size_t end = html.find(';', at);
      if (end == html.npos || end - at > 7) return "a bare &: " + here;
    }
    if (html[at] == '>') return "a bare >: " + here;
    if (html[at] != '<') {
      ++at;
      continue;
    }
    std::size_t end = at + 1;
    bool quoted = false;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (html[end] == '<') return "a < in a tag: " + here;
    }
    if (end == html.size()) return "a tag that does not end: " + here;
    const std::string_view tag = html.substr(at + 1, end - at - 1);
    const std::string name(tag.substr(0, tag.find_first_of(" />", 1)));
    if (const std::size_t id = tag.find(" id=\""); id != tag.npos) {
      const std::string value = between(tag, " id=\"", "\"");
      for (const std::string& known : ids)
        if (known == value) return "the id " + value + " stands twice";
      ids.push_back(value);
    }
    if (name[0] == '/') {
      if (open.empty() || open.back() != name.substr(1)) return "closes " + name + " in " + (open.empty() ? "nothing" : open.back()) + ": " + here;
      open.pop_back();
    } else if (!is_void(name) && tag.back() != '/') {
      open.push_back(name);
    }
    at = end + 1;
    if (name == "style") at = html.find("</style>", at);
  }
  return open.empty() ? "" : "never closes " + open.back();
}

Json pair(double a, double b) { return Json::array().push(a).push(b); }

/// The files of a run of two tasks, trained up to 6.
struct Run {
  Folder folder;
  Json config = Json::object(), results = Json::object(), diagnostics = Json::object(), machine = Json::object();
  std::string metrics;

  static double accuracy(std::string_view model, int length) { return model == "ar" && length > 6 ? 0.5 : length == 10 ? 0 : 1; }

  Run() {
    config.set("seed", 7).set("tasks", Json::array(std::vector<std::string>{"arithmetic", "my_task"}));
    for (const char* task : {"arithmetic", "my_task"})
      config.set(message(task, ".shortest"), 1).set(message(task, ".longest"), 6).set("model.width", 32);
    Json rows = Json::array(), entries = Json::array();
    for (const char* task : {"my_task", "arithmetic"})
      for (const char* model : models)
        for (const int length : {1, 2, 4, 6, 7, 8, 10}) {
          const double right = accuracy(model, length);
          rows.push(Json::object().set("model", model).set("task", task).set("length", length).set("samples", 100)
                        .set("answer_accuracy", right).set("chain_accuracy", right).set("token_accuracy", right));
          Json rounds = Json::array(), errors = Json::array(), first = Json::array(), bins = Json::array();
          for (int t = 0; t < length; ++t) {
            rounds.push(pair(100 * right, 100));
            errors.push(Json::array().push(pair(100 - 100 * right, 100)).push(pair(0, 50)).push(pair(0, 0)));
            first.push(t == 0 ? 100 - 100 * right : 0);
          }
          for (int i = 0; i < 10; ++i) bins.push(Json::array().push(i == 9 ? 90 : 0).push(i == 9 ? 100 * right : 0).push(i == 9 ? 100 : 0));
          entries.push(Json::object().set("model", model).set("task", task).set("length", length).set("samples", 100)
                           .set("rounds", rounds).set("errors", errors).set("first_wrong", first).set("calibration", bins));
        }
    results.set("config", config).set("rows", rows);

    const auto step = [](const char* text, bool right, const char* why) { return Json::object().set("text", text).set("right", right).set("why", why); };
    Json rounds = Json::array();
    for (int t = 0; t < 14; ++t) rounds.push(step("1+<script>alert('x')</script>", t < 11, t == 11 ? "\"2\" & not <3>" : ""));
    const auto chain = [&](const Json& steps, bool right) {
      return Json::object().set("model", "ar").set("task", "my_task").set("length", 14).set("problem", "<script>problem</script>")
          .set("rounds", steps).set("answer", right ? "4" : "").set("answer_right", right).set("truth", "4");
    };
    diagnostics.set("entries", entries)
        .set("gallery", Json::array().push(chain(rounds, false)).push(chain(Json::array().push(step("4", true, "")), true)))
        .set("claims", Json::array().push(claim("arithmetic", true)).push(claim("my_task", false)).push(claim("my_task", nullptr)))
        .set("data", Json::array().push(Json::object().set("task", "arithmetic").set("options", Json::object().set("modulus", 5)).set("seed", 7)
                                            .set("part", "test").set("hash", "9f0123").set("samples", 700)));
    for (int i = 1; i <= 1000; ++i)
      metrics += message("{\"stage\":\"looped_aligned\",\"step\":", 50 * i, ",\"loss\":", 2.0 / i, ",\"value_loss\":", 1.0 / i, ",\"accuracy\":0.75}\n");
    metrics += "{\"stage\":\"ar\",\"step\":50,\"loss\":0.5,\"answer_loss\":0,\"accuracy\":null}\n{\"stage\":\"ar\",\"st";
    machine.set("cpu", "a <fast> one").set("cores", 2).set("date", "2026-11-28").set("seconds", Json::object().set("looped_aligned", 83.4).set("ar", 4000));
    write();
  }

  static Json claim(const char* task, Json holds) {
    return Json::object().set("claim", 1).set("task", task).set("text", "In range, all are near 100 %").set("holds", holds).set("detail", "lowest: ar .97");
  }

  void write() const {
    put_file(folder / "config.json", config.dump());
    put_file(folder / "results.json", results.dump());
    put_file(folder / "diagnostics.json", diagnostics.dump());
    put_file(folder / "metrics.jsonl", metrics);
    put_file(folder / "machine.json", machine.dump());
  }
  void remove(std::string_view name) const { remove_file(folder / name); }
  std::string html() const {
    write_report(folder.path);
    return read_file(folder / "report.html");
  }
};

/// The first chart with this title.
std::string chart(const std::string& html, std::string_view title) {
  const std::size_t at = html.find(message("<title>", title));
  REQUIRE_MESSAGE(at != html.npos, title);
  const std::size_t begin = html.rfind("<svg", at);
  return html.substr(begin, html.find("</svg>", at) - begin);
}

}  // namespace

TEST_CASE("the page has every section, and links to each") {
  const Run run;
  const std::string html = run.html();
  for (const char* id : {"summary", "claims", "accuracy", "errors", "agreement", "first-wrong", "calibration", "losses", "gallery", "origin"}) {
    CHECK_MESSAGE(count(html, message("<section id=\"", id, "\">")) == 1, id);
    CHECK_MESSAGE(count(html, message("<a href=\"#", id, "\">")) == 1, id);
  }
  CHECK(contains(html, "<title>relay: arithmetic and my task</title>"));
  CHECK(contains(html, "seed 7"));
  CHECK(contains(html, "name=\"viewport\""));
  CHECK(contains(html, "prefers-color-scheme:dark"));
  CHECK(contains(html, "a &lt;fast&gt; one"));
  CHECK(contains(html, "9f0123"));
  CHECK(contains(html, "{&quot;modulus&quot;:5}"));
  CHECK(contains(html, "1 min 23 s"));
  CHECK(contains(html, "1 h 06 min"));
  for (const char* model : models) CHECK(contains(html, model));
}

TEST_CASE("the page is well formed and loads nothing") {
  CHECK(ill_formed("<p>a</b>") != "");
  CHECK(ill_formed("<p>a") != "");
  CHECK(ill_formed("a < b") != "");
  CHECK(ill_formed("<i id=\"a\"></i><b id=\"a\"></b>") != "");
  const Run run;
  const std::string html = run.html();
  CHECK(ill_formed(html) == "");
  for (const char* word : {"http:", "https:", "//", "url(", "@import", "<script", " src=", "<img", "<iframe", "onclick", "onload"})
    CHECK_MESSAGE(!contains(html, word), word);
  CHECK(count(html, "<svg") == count(html, "<desc>") + count(html, "aria-hidden=\"true\""));
  CHECK(html.size() < 1000000);
}

TEST_CASE("texts of the run are escaped") {
  const std::string html = Run().html();
  CHECK(contains(html, "1+&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  CHECK(contains(html, "&lt;script&gt;problem&lt;/script&gt;"));
  CHECK(contains(html, "&quot;2&quot; &amp; not &lt;3&gt;"));
  CHECK(report::escape(std::string_view("a\0\x1b\n", 4)) == "a\uFFFD\uFFFD\n");
}

TEST_CASE("curves are where their values are") {
  const std::string svg = chart(Run().html(), "arithmetic: answer accuracy by length");
  const auto at = [&](int length, std::string_view tip) {
    const std::size_t end = svg.find(message("<title>looped_aligned, length ", length, ": ", tip));
    REQUIRE(end != svg.npos);
    const std::string tag = svg.substr(svg.rfind("<circle", end), end - svg.rfind("<circle", end));
    return std::pair(attribute(tag, "cx"), attribute(tag, "cy"));
  };
  const auto [x1, y1] = at(1, "1.000 (0.963\u20131.000, 100 problems)");
  const auto [x4, y4] = at(4, "1.000");
  const auto [x10, y10] = at(10, "0.000 (0.000\u20130.037");
  CHECK(std::abs((x10 - x1) / 9 - (x4 - x1) / 3) < 0.02);
  CHECK(y1 == y4);
  CHECK(y10 > y1);
  // The lines of the grid at 1 and 0, and half way for a half.
  CHECK(contains(svg, message("<path class=\"grid\" d=\"M34 ", report::brief(y1), "L")));
  CHECK(contains(svg, message("<path class=\"grid\" d=\"M34 ", report::brief(y10), "L")));
  const std::size_t half = svg.find("<title>ar, length 7: 0.500");
  REQUIRE(half != svg.npos);
  const std::string square = svg.substr(svg.rfind("<path", half), half - svg.rfind("<path", half));  // from its upper left corner down
  const double top = std::atof(square.substr(square.find(' ', square.find("d=\"M")) + 1).c_str());
  const double bottom = std::atof(square.substr(square.find('V') + 1).c_str());
  CHECK(std::abs((top + bottom) / 2 - (y1 + y10) / 2) < 0.02);
  // Trained: from the left to half way between 6 and 7.
  const std::string ground = between(svg, "<rect", "/>");
  CHECK(std::abs(attribute(ground, "x") + attribute(ground, "width") - (x1 + (x10 - x1) / 9 * 5.5)) < 0.2);
}

TEST_CASE("what answers alone say of a chain is not shown") {
  const std::string html = Run().html();
  CHECK(contains(chart(html, "my task: answer accuracy"), "looped_vanilla, length 7"));
  for (const char* title : {"my task: chain accuracy", "my task: token accuracy"}) {
    CHECK(!contains(chart(html, title), "looped_vanilla"));
    CHECK(contains(chart(html, title), "ar_relay, length 7"));
  }
}

TEST_CASE("the summary has the means of both sides") {
  const std::string html = Run().html(), table = between(html, "<table class=\"summary full\"", "</table>");
  const std::string ar = between(table.substr(table.find(">ar</span>")), "</th>", "</tr>");
  CHECK(count(ar, ">1.000<") == 2);
  CHECK(count(ar, ">0.500<") == 2);  // 7, 8 and 10
  const std::string aligned = between(table.substr(table.find(">looped_aligned</span>")), "</th>", "</tr>");
  CHECK(count(aligned, "best\" style=\"--v:66.7%\">0.667<") == 2);
  CHECK(contains(table, "<small>7\u201310</small>"));
}

TEST_CASE("claims hold, do not, or were not tested") {
  const std::string claims = between(Run().html(), "<section id=\"claims\">", "</section>");
  CHECK(contains(claims, "1 of 2 hold"));
  CHECK(count(claims, "\u2713 holds") == 1);
  CHECK(count(claims, "\u2717 does not hold") == 1);
  CHECK(count(claims, "? not tested") == 1);
  CHECK(count(claims, "In range, all are near 100 %") == 1);
}

TEST_CASE("error maps: the longest trained length, the next and the longest tested") {
  const std::string errors = between(Run().html(), "<section id=\"errors\">", "</section>");
  for (const char* head : {"length 6, the longest trained", "length 7, 1 beyond", "length 10, 4 beyond"}) CHECK(count(errors, head) == 2);
  CHECK(!contains(errors, "length 8"));
  const std::string map = chart(errors, "ar, arithmetic, length 7");
  CHECK(contains(map, "class=\"h5\" d=\"M0 0h1v1h-1z"));  // half of the left column is wrong, the third from the right
  CHECK(contains(map, "class=\"h0\" d=\"M1 0h1v1h-1z"));  // none of the next; nobody had the last
  CHECK(contains(map, "worst: round 1, column 3, 50\u00A0% wrong"));
}

TEST_CASE("calibration has the expected calibration error, and the first wrong round the share of right chains") {
  const std::string html = Run().html();
  CHECK(contains(chart(html, "ar, my task: share of right chains by confidence"), "<desc>ECE 0.100, beyond 0.400</desc>"));
  CHECK(contains(chart(html, "ar, my task, length 10: the first wrong round"), "<desc>50\u00A0% never wrong</desc>"));
}

TEST_CASE("losses are smoothed, and a half-written line is no line") {
  const std::string html = Run().html();
  const std::string svg = chart(html, "Training of looped_aligned");
  CHECK(count(between(svg.substr(svg.find("class=\"ln\"")), "d=\"", "\""), "L") == 119);
  CHECK(count(html, "<title>Training of ") == 2);
  CHECK(contains(html, "50\u202F000 steps, 1 min 23 s, last accuracy 0.750"));
}

TEST_CASE("chains: the first wrong round is marked, and says why; those far from it are folded") {
  const std::string gallery = between(Run().html(), "<section id=\"gallery\">", "</section>");
  CHECK(contains(gallery, "wrong from round 12"));
  CHECK(count(gallery, "class=\"first\"") == 1);
  CHECK(contains(gallery, "rounds 1\u20139, all right"));
  CHECK(contains(gallery, "the truth is <code>4</code>"));
}

TEST_CASE("whatever but results.json may be missing") {
  const Run run;
  for (const char* file : {"machine.json", "metrics.jsonl", "diagnostics.json", "config.json"}) {
    run.remove(file);
    const std::string html = run.html();
    CHECK(ill_formed(html) == "");
    CHECK(contains(html, "<section id=\"accuracy\">"));
    if (std::strcmp(file, "config.json") != 0) CHECK(contains(html, file));  // said to be missing; of config.json results.json has a copy
  }
  const std::string html = run.html();
  for (const char* id : {"claims", "errors", "agreement", "first-wrong", "calibration", "losses", "gallery"})
    CHECK(!contains(html, message("id=\"", id, "\"")));
  CHECK(contains(html, "<small>1\u20136</small>"));
  run.remove("results.json");
  CHECK(error([&] { write_report(run.folder.path); }) ==
        run.folder.path + " holds no results: there is no results.json; finish the run, or give another folder");
}

TEST_CASE("a run without rows, or without the trained range, or with one length, is a page, too") {
  Run run;
  run.results.set("rows", Json::array());
  run.write();
  CHECK(ill_formed(run.html()) == "");
  CHECK(contains(run.html(), "results.json has no rows"));
  CHECK(report_tables(read_report_data(run.folder.path)) != "");

  Run other;
  other.config = Json::object();
  other.write();
  CHECK(ill_formed(other.html()) == "");
  CHECK(!contains(other.html(), "class=\"trained\""));

  Run one;
  one.results.set("rows", Json::array().push(one.results.at("rows").as_array().front()));
  one.write();
  CHECK(ill_formed(one.html()) == "");
}

TEST_CASE("a malformed file is an error that names it, and leaves the old report") {
  const auto fails = [](auto&& change, std::string_view file, std::string_view words) {
    Run run;
    const std::string before = run.html();
    change(run);
    const std::string message = error([&] { write_report(run.folder.path); });
    CHECK_MESSAGE(contains(message, run.folder / file), message);
    CHECK_MESSAGE(contains(message, words), message);
    CHECK(read_file(run.folder / "report.html") == before);
  };
  for (const char* file : {"config.json", "results.json", "diagnostics.json", "machine.json"}) {
    fails([&](const Run& run) { put_file(run.folder / file, "{\"a\":"); }, file, "expected a value");
    fails([&](const Run& run) { put_file(run.folder / file, "[]"); }, file, "must be an object");
  }
  fails([](const Run& run) { put_file(run.folder / "metrics.jsonl", "{\"stage\":\"ar\",\"step\":1}\n{\"stage\n"); }, "metrics.jsonl:2", "line 1");
  fails([](const Run& run) { put_file(run.folder / "metrics.jsonl", "{\"stage\":\"ar\"}\n"); }, "metrics.jsonl:1", "has no \"step\"");
  const auto with = [](const char* file, const char* text) { return [=](const Run& run) { put_file(run.folder / file, text); }; };
  fails(with("results.json", "{}"), "results.json", "has no \"rows\"");
  fails(with("results.json", R"({"rows":[{"model":"ar","task":"t","length":1.5}]})"), "results.json: rows[0]: length", "whole number");
  fails(with("results.json", R"({"rows":[{"model":"ar","task":"t","length":1,"samples":1,"answer_accuracy":1.5,"chain_accuracy":0,"token_accuracy":0}]})"),
        "results.json: rows[0]: answer_accuracy", "must be 0 .. 1");
  const auto broken = [&](const std::string& more, std::string_view where, std::string_view words) {
    const std::string text = message(R"({"entries":[{"model":"ar","task":"t","length":1,"samples":1,)", more, "}]}");
    fails([&](const Run& run) { put_file(run.folder / "diagnostics.json", text); }, message("diagnostics.json: entries[0]: ", where), words);
  };
  broken("\"rounds\":[[1,2],[1]]", "rounds[1]", "has 1 numbers, but must have 2");
  broken("\"rounds\":[[3,2]]", "rounds[0]", "counts 3 of 2");
  broken("\"errors\":[[[1,2]],[[1,2],\"x\"]]", "errors[1][1]", "must be an array");
  broken("\"first_wrong\":[-1]", "first_wrong[0]", "must not be negative");
  broken("\"calibration\":[[0,1,null]]", "calibration[0]", "must be a number");
}

TEST_CASE("a page of a large run stays small") {
  ReportData data;
  const char* const tasks[] = {"arithmetic", "edit_distance", "longest_increasing_subsequence"};
  for (const char* task : tasks) {
    data.config.set(message(task, ".shortest"), 1).set(message(task, ".longest"), 15);
    for (std::size_t m = 0; m < 6; ++m)
      for (int length = 1; length <= 30; ++length) {
        data.rows.push_back({models[m], task, length, 500, 0.9, 0.7, 0.8});
        report::Entry entry{models[m], task, length, 500, {}, {}, std::vector<double>(30, 3), std::vector<report::Bin>(10, {0.9, 1, 2})};
        for (int t = 0; t < 30; ++t) {
          entry.rounds.push_back({static_cast<double>((t * 7919 + length) % 500), 500});
          auto& round = entry.errors.emplace_back();
          for (int c = 0; c < 32; ++c) round.push_back({static_cast<double>((t * 7919 + c * 104729) % 500), 500});
        }
        data.entries.push_back(entry);
      }
  }
  const std::string html = report_html(data);
  CHECK(ill_formed(html) == "");
  CHECK(html.size() < 2000000);
}

TEST_CASE("tables for a terminal: at most 100 columns, a bar between trained and beyond") {
  const Run run;
  const ReportData data = read_report_data(run.folder.path);
  const std::string text = report_tables(data);
  const auto fits = [](const std::string& table) {
    std::size_t begin = 0;
    for (std::size_t end; (end = table.find('\n', begin)) != table.npos; begin = end + 1) {
      std::size_t columns = 0;
      for (std::size_t i = begin; i < end; ++i) columns += (static_cast<unsigned char>(table[i]) & 0xC0) != 0x80;
      if (columns > 100) return table.substr(begin, end - begin);
    }
    return std::string();
  };
  CHECK(fits(text) == "");
  CHECK(contains(text, "arithmetic, trained on lengths 1 to 6\n"
                       "length              1     2     4     6 |     7     8    10\n"
                       "  answer\n"
                       "looped_aligned  1.000 1.000 1.000 1.000 | 1.000 1.000 0.000\n"
                       "looped_vanilla  1.000 1.000 1.000 1.000 | 1.000 1.000 0.000\n"
                       "ar              1.000 1.000 1.000 1.000 | 0.500 0.500 0.500\n"));
  CHECK(contains(text, "  chain\nlooped_aligned  1.000 1.000 1.000 1.000 | 1.000 1.000 0.000\nar  "));
  CHECK(contains(text, " 1  In range, all are near 100 %\n    holds          arithmetic: lowest: ar .97\n    does NOT hold  my task: lowest: ar .97\n"
                       "    not tested     my task"));
  CHECK(contains(text, "arithmetic, looped_aligned: how often iteration t prints round t\n"
                       "t                   1     2     3     4     5     6     7     8     9    10\n"
                       "  length 6      1.000 1.000 1.000 1.000 1.000 1.000\n"));
  for (const char* table : {", length 10: the worst place of each round, how often right\n",
                            ", length 10: the share of chains that are first wrong in round t\n",
                            "calibration: expected error of the confidence in a chain, on trained lengths and beyond\n",
                            "training              steps    loss accuracy seconds\n"})
    CHECK_MESSAGE(contains(text, table), text);

  // Many lengths: some are left out, the ends of both sides stay.
  ReportData many;
  many.config.set("t.longest", 20);
  for (int length = 3; length <= 60; ++length) many.rows.push_back({"ar", "t", length, 100, 0.5, 0.5, 0.5});
  const std::string thin = report_tables(many), head = between(thin, "length  ", "\n");
  CHECK(fits(thin) == "");
  CHECK(contains(thin, "t, trained on lengths 1 to 20; 14 of 58 lengths\n"));
  for (const char* length : {"    3 ", " 20| ", "   21 ", "   60"}) CHECK_MESSAGE(contains(head, length), head);
  many.claims.push_back({12, "", std::string(300, 'x') + " " + std::string(60, 'y'), "", {}});
  CHECK(contains(report_tables(many), "12  "));
}

TEST_CASE("the interval of Wilson") {
  const report::Interval half = report::wilson(0.5, 100), all = report::wilson(1, 100), none = report::wilson(0, 0);
  CHECK(half.low == doctest::Approx(0.40383).epsilon(1e-4));
  CHECK(half.high == doctest::Approx(0.59617).epsilon(1e-4));
  CHECK(all.low == doctest::Approx(0.96301).epsilon(1e-4));
  CHECK(all.high == doctest::Approx(1));
  CHECK(none.low == 0);
  CHECK(none.high == 1);
}
