// The figures of a report, as SVG: curves, heat maps, histograms, reliability diagrams.
//
// A figure is drawn in the size in which it is shown, so its text is as large as the page's. Colours, dashes and fonts are the
// page's (page.hpp) and so know light and dark; here a series has only its class, "s0", "s1", ... and its marker.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/pipeline/report/data.hpp>
#include <relay/pipeline/report/text.hpp>

namespace relay::report {

/// Where numbers lie on a figure.
struct Frame {
  double left = 0, top = 0, width = 0, height = 0;
  double x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  bool log_y = false;

  double right() const { return left + width; }
  double bottom() const { return top + height; }
  double x(double value) const { return left + width * (x1 > x0 ? (value - x0) / (x1 - x0) : 0.5); }
  double y(double value) const {
    const auto part = [](double v, double a, double b) { return b > a ? (v - a) / (b - a) : 0.5; };
    const double up = log_y ? part(std::log10(value), std::log10(y0), std::log10(y1)) : part(value, y0, y1);
    return bottom() - height * std::clamp(up, 0.0, 1.0);
  }
};

inline std::string svg_begin(double width, double height, std::string_view title, std::string_view description,
                             std::string_view classes = "") {
  return join({"<svg role=\"img\" class=\"", classes, "\" width=\"", brief(width), "\" height=\"", brief(height),
                 "\" viewBox=\"0 0 ", brief(width), " ", brief(height), "\"><title>", escape(title), "</title><desc>",
                 escape(description), "</desc>"});
}

/// Text at a point; anchor is start, middle or end.
inline std::string svg_text(double x, double y, std::string_view anchor, std::string_view text, std::string_view classes = "") {
  std::string out = join({"<text x=\"", brief(x), "\" y=\"", brief(y), "\""});
  if (anchor != "start") out += join({" text-anchor=\"", anchor, "\""});
  if (!classes.empty()) out += join({" class=\"", classes, "\""});
  return out += join({">", escape(text), "</text>"});
}

inline std::string svg_line(double x1, double y1, double x2, double y2, std::string_view classes) {
  return join({"<path class=\"", classes, "\" d=\"M", brief(x1), " ", brief(y1), "L", brief(x2), " ", brief(y2), "\"/>"});
}

/// The marker of series `style`: a shape of its own, hollow for some; `tip` shows when the pointer is on it.
inline std::string svg_marker(int style, double x, double y, double r, std::string_view tip = "") {
  const auto at = [](double a, double b) { return join({brief(a, 2), " ", brief(b, 2)}); };
  const std::string end = tip.empty() ? "/>" : join({"><title>", escape(tip), "</title></"});
  if (style == 0)
    return join({"<circle class=\"mk\" cx=\"", brief(x, 2), "\" cy=\"", brief(y, 2), "\" r=\"", brief(r, 2), "\"", end,
                   tip.empty() ? "" : "circle>"});
  std::string d;
  const double w = r * 0.9, v = r * 1.3;
  if (style == 1)  // a cross
    d = join({"M", at(x - w, y - w), "L", at(x + w, y + w), "M", at(x - w, y + w), "L", at(x + w, y - w)});
  else if (style == 2)  // a square
    d = join({"M", at(x - w, y - w), "H", brief(x + w, 2), "V", brief(y + w, 2), "H", brief(x - w, 2), "Z"});
  else if (style == 3)  // a diamond
    d = join({"M", at(x, y - v), "L", at(x + v, y), "L", at(x, y + v), "L", at(x - v, y), "Z"});
  else if (style == 4)  // a triangle
    d = join({"M", at(x, y - v), "L", at(x + v, y + w), "L", at(x - v, y + w), "Z"});
  else if (style == 5)  // a triangle, the other way
    d = join({"M", at(x, y + v), "L", at(x + v, y - w), "L", at(x - v, y - w), "Z"});
  else  // a plus
    d = join({"M", at(x - v, y), "H", brief(x + v, 2), "M", at(x, y - v), "V", brief(y + v, 2)});
  return join({"<path class=\"mk", style == 1 || style > 5 ? " open" : style == 5 ? " hollow" : "", "\" d=\"", d, "\"", end,
                 tip.empty() ? "" : "path>"});
}

/// The step of round numbers of which at most `most` lie in the range.
inline double round_step(double range, int most) {
  double step = 1;
  for (;;)
    for (const double factor : {2.0, 2.5, 2.0}) {  // 1, 2, 5, 10, ...
      if (range / step <= most) return step;
      step *= factor;
    }
}

/// draw(i) for those of the n places that get a label: the first, the last, and between them every 2nd, 5th, 10th, ..., so that
/// `apart` places lie between two labels.
inline void each_tick(int n, double apart, auto&& draw) {
  const int step = static_cast<int>(round_step(std::max(1.0, apart), 1));
  for (int i = 0; i < n; i += i == 0 && step > 1 ? step - 1 : step)
    if (i == 0 || (i >= apart && n - 1 - i >= apart)) draw(i);
  if (n > 1) draw(n - 1);
}

/// Places labels at the heights they want, or as near as `gap` between them allows.
inline void spread(std::vector<double>& heights, double gap, double top, double bottom) {
  std::vector<std::size_t> order;  // from the top, by insertion: they are few
  for (std::size_t i = 0; i < heights.size(); ++i) {
    order.push_back(i);
    for (std::size_t k = i; k > 0 && heights[order[k]] < heights[order[k - 1]]; --k) std::swap(order[k], order[k - 1]);
  }
  for (int pass = 0; pass < 200; ++pass) {
    bool moved = false;
    for (std::size_t k = 1; k < order.size(); ++k) {
      double &above = heights[order[k - 1]], &below = heights[order[k]];
      if (const double overlap = gap - (below - above); overlap > 0.01) above -= overlap / 2, below += overlap / 2, moved = true;
    }
    for (std::size_t k = 0; k < order.size(); ++k) heights[order[k]] = std::max(heights[order[k]], top + gap * static_cast<double>(k));
    for (std::size_t k = 0; k < order.size(); ++k) {
      double& height = heights[order[order.size() - 1 - k]];
      height = std::min(height, bottom - gap * static_cast<double>(k));
    }
    if (!moved) break;
  }
}

struct CurvePoint {
  double x = 0, y = 0, low = 0, high = 0;
  std::string tip;
};

struct Curve {
  std::string label;
  int style = 0;
  std::vector<CurvePoint> points;
};

struct LineChart {
  std::string title = {}, description = {}, x_name = {}, y_name = {};
  double width = 0, height = 0, label_width = 104;
  double x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  bool log_y = false, markers = true, tips = true;
  std::optional<Range> trained = {};  // shaded
  std::vector<Curve> curves = {};     // the first is drawn on top
};

/// Curves with bands from low to high, labelled at their right ends.
inline std::string line_chart(const LineChart& chart) {
  Frame f{.left = 34, .top = 24, .x0 = chart.x0, .x1 = chart.x1, .y0 = chart.y0, .y1 = chart.y1, .log_y = chart.log_y};
  f.width = chart.width - f.left - chart.label_width;
  f.height = chart.height - f.top - 34;
  std::string out = svg_begin(chart.width, chart.height, chart.title, chart.description, "chart");

  if (chart.trained) {
    const double a = std::max(f.left, f.x(chart.trained->shortest - 0.5)), b = std::min(f.right(), f.x(chart.trained->longest + 0.5));
    out += join({"<rect class=\"trained\" x=\"", brief(a), "\" y=\"", brief(f.top), "\" width=\"", brief(std::max(0.0, b - a)),
                   "\" height=\"", brief(f.height), "\"/>"});
    out += svg_text(a + 4, f.bottom() - 5, "start", "trained", "faint");
  }

  // The grid: horizontal lines with their values, ticks below.
  if (chart.log_y) {
    const int low = static_cast<int>(std::lround(std::log10(f.y0))), high = static_cast<int>(std::lround(std::log10(f.y1)));
    const int step = std::max(1, static_cast<int>(round_step(high - low, std::max(1, static_cast<int>(f.height / 22)))));
    for (int power = high; power >= low; power -= step) {
      const double y = f.y(std::pow(10.0, power));
      out += svg_line(f.left, y, f.right(), y, "grid");
      if (power >= -2 && power <= 3)
        out += svg_text(f.left - 5, y + 4, "end", brief(std::pow(10.0, power), 2));
      else
        out += join({"<text x=\"", brief(f.left - 5), "\" y=\"", brief(y + 4), "\" text-anchor=\"end\">10<tspan dy=\"-4\" class=\"small\">",
                       power < 0 ? "\u2212" : "", std::abs(power), "</tspan></text>"});
    }
  } else {
    const double step = f.y1 - f.y0 > 0.6 ? 0.25 : 0.1;
    for (int i = 0; f.y0 + i * step <= f.y1 + 1e-9; ++i) {
      const double y = f.y(f.y0 + i * step);
      out += svg_line(f.left, y, f.right(), y, "grid");
      out += svg_text(f.left - 5, y + 4, "end", brief(f.y0 + i * step, 2));
    }
  }
  const double step = round_step(f.x1 - f.x0, std::max(2, static_cast<int>(f.width / (f.x1 >= 1000 ? 44 : 26))));
  for (double x = std::ceil(f.x0 / step) * step; x <= f.x1 + 1e-9; x += step) {
    out += svg_line(f.x(x), f.bottom(), f.x(x), f.bottom() + 4, "tick");
    out += svg_text(f.x(x), f.bottom() + 16, "middle", f.x1 >= 10000 ? grouped(x) : brief(x));
  }
  out += svg_text(f.left + f.width / 2, chart.height - 4, "middle", chart.x_name, "axis");
  out += svg_text(2, 13, "start", chart.y_name, "axis");

  std::vector<double> heights;
  for (const Curve& curve : chart.curves) heights.push_back(f.y(curve.points.empty() ? f.y0 : curve.points.back().y));
  spread(heights, 13.5, f.top, f.bottom() + 4);

  for (std::size_t i = chart.curves.size(); i-- > 0;) {
    const Curve& curve = chart.curves[i];
    if (curve.points.empty()) continue;
    out += join({"<g class=\"s", curve.style, "\">"});
    std::string line, band;
    for (const CurvePoint& p : curve.points) {
      line += join({line.empty() ? "M" : "L", brief(f.x(p.x)), " ", brief(f.y(p.y))});
      band += join({band.empty() ? "M" : "L", brief(f.x(p.x)), " ", brief(f.y(p.high))});
    }
    for (std::size_t k = curve.points.size(); k-- > 0;)
      band += join({"L", brief(f.x(curve.points[k].x)), " ", brief(f.y(curve.points[k].low))});
    if (curve.points.size() > 1) {
      out += join({"<path class=\"band\" d=\"", band, "Z\"/>"});
      out += join({"<path class=\"ln\" d=\"", line, "\"/>"});
    }
    const double each = f.width / std::max(1.0, static_cast<double>(curve.points.size()) - 1);
    if (chart.markers)
      for (const CurvePoint& p : curve.points)
        out += svg_marker(curve.style, f.x(p.x), f.y(p.y), each > 13 ? 3.2 : 2.2, chart.tips ? p.tip : "");
    const double end = f.x(curve.points.back().x), y = f.y(curve.points.back().y), x = f.right() + 12;
    out += join({"<path class=\"leader\" d=\"M", brief(end + 4), " ", brief(y), "L", brief(x - 2), " ", brief(heights[i]), "\"/>"});
    if (chart.markers) out += svg_marker(curve.style, x + 3, heights[i], 3);
    out += svg_text(x + (chart.markers ? 10 : 1), heights[i] + 4, "start", curve.label, "label");
    out += "</g>";
  }
  return out += "</svg>";
}

/// How dark a share of errors is: 0 none, then up to 1 %, 3 %, 10 %, 30 %, 60 %, and above.
inline int heat_level(double share) {
  constexpr double limits[] = {0, 0.01, 0.03, 0.1, 0.3, 0.6};
  int level = 0;
  for (const double limit : limits) level += share > limit ? 1 : 0;
  return level;
}

struct HeatMap {
  std::string title = {}, description = {}, x_name = {}, y_name = {};
  double width = 208, tallest = 170;
  std::vector<std::vector<Tally>> rows = {};  // shares of errors, from the top; nothing where nothing was counted
  std::vector<std::string> row_names = {};    // by default 1, 2, ...
  int line_below = -1;                   // a line below so many rows
  bool from_right = false;               // rows are flush right, and columns counted from there
};

/// Cells of one level are one path, and neighbours in a row one rectangle: large maps stay small files.
inline std::string heat_map(const HeatMap& map) {
  std::size_t columns = 1, longest_name = 2;
  for (const auto& row : map.rows) columns = std::max(columns, row.size());
  for (const std::string& name : map.row_names) longest_name = std::max(longest_name, name.size());
  const std::size_t rows = std::max<std::size_t>(1, map.rows.size());
  Frame f{.left = 8 + 6.2 * static_cast<double>(longest_name), .top = 16};
  f.width = map.width - f.left - 2;
  const double cell = std::min(14.0, map.tallest / static_cast<double>(rows)), wide = f.width / static_cast<double>(columns);
  f.height = cell * static_cast<double>(rows);
  const double height = f.bottom() + 28;
  std::string out = svg_begin(map.width, height, map.title, map.description, "panel");

  std::string paths[7];
  for (std::size_t y = 0; y < map.rows.size(); ++y) {
    const auto& row = map.rows[y];
    const std::size_t first = map.from_right ? columns - row.size() : 0, after = first + row.size();
    const auto level = [&](std::size_t x) { return row[x - first].count > 0 ? heat_level(row[x - first].share()) : -1; };
    for (std::size_t x = first, end; x < after; x = end) {
      for (end = x + 1; end < after && level(end) == level(x);) ++end;
      if (level(x) >= 0) paths[level(x)] += join({"M", x, " ", y, "h", end - x, "v1h-", end - x, "z"});
    }
  }
  out += join({"<g class=\"cells\" transform=\"translate(", brief(f.left), " ", brief(f.top), ") scale(", brief(wide, 3), " ",
                 brief(cell, 3), ")\">"});
  for (int level = 0; level < 7; ++level)
    if (!paths[level].empty()) out += join({"<path class=\"h", level, "\" d=\"", paths[level], "\"/>"});
  out += "</g>";
  if (map.line_below > 0 && map.line_below < static_cast<int>(rows)) {
    const double y = f.top + cell * map.line_below;
    out += svg_line(f.left - 6, y, f.right(), y, "limit");
  }

  const auto name = [&](int i) {
    return map.row_names.empty() ? std::to_string(i + 1) : map.row_names[static_cast<std::size_t>(i)];
  };
  each_tick(static_cast<int>(rows), 12 / cell, [&](int i) { out += svg_text(f.left - 4, f.top + cell * (i + 0.5) + 3.5, "end", name(i)); });
  each_tick(static_cast<int>(columns), 18 / wide,
            [&](int i) {
              const double x = wide * (i + 0.5);
              out += svg_text(map.from_right ? f.right() - x : f.left + x, f.bottom() + 12, "middle", std::to_string(i + 1));
            });
  out += svg_text(0, 10, "start", map.y_name, "axis");
  out += svg_text(f.left + f.width / 2, f.bottom() + 24, "middle", map.x_name, "axis");
  return out += "</svg>";
}

struct Histogram {
  std::string title = {}, description = {}, x_name = {}, y_name = {};
  double width = 208, height = 126, highest = 1;
  int style = 0;
  std::vector<double> shares = {};  // of 1, 2, ...
};

inline std::string histogram(const Histogram& chart) {
  const int n = std::max(1, static_cast<int>(chart.shares.size()));
  Frame f{.left = 32, .top = 24, .x0 = 0.5, .x1 = n + 0.5, .y0 = 0, .y1 = chart.highest > 0 ? chart.highest : 1};
  f.width = chart.width - f.left - 2;
  f.height = chart.height - f.top - 28;
  std::string out = svg_begin(chart.width, chart.height, chart.title, chart.description, "panel");
  for (const double value : {0.0, f.y1 / 2, f.y1}) {
    out += svg_line(f.left, f.y(value), f.right(), f.y(value), "grid");
    out += svg_text(f.left - 4, f.y(value) + 3.5, "end", brief(value, f.y1 < 0.2 ? 3 : 2));
  }
  const double wide = f.width / n, bar = std::min(14.0, wide * 0.78);
  std::string d;
  for (int i = 0; i < static_cast<int>(chart.shares.size()); ++i)
    if (const double share = chart.shares[static_cast<std::size_t>(i)]; share > 0)
      d += join({"M", brief(f.x(i + 1) - bar / 2), " ", brief(f.bottom()), "V", brief(f.y(share)), "h", brief(bar), "V",
                   brief(f.bottom()), "z"});
  out += join({"<path class=\"bar s", chart.style, "\" d=\"", d, "\"/>"});
  each_tick(n, 18 / wide, [&](int i) { out += svg_text(f.x(i + 1), f.bottom() + 12, "middle", std::to_string(i + 1)); });
  out += svg_text(0, 10, "start", chart.y_name, "axis");
  out += svg_text(f.left + f.width / 2, chart.height - 4, "middle", chart.x_name, "axis");
  return out += "</svg>";
}

struct Reliability {
  std::string title = {}, description = {};
  double width = 208;
  int style = 0;
  std::vector<Bin> trained = {}, beyond = {};
};

/// Share right over confidence, one dot per bin, larger for more chains; below, how many chains each bin has.
inline std::string reliability(const Reliability& chart) {
  Frame f{.left = 32, .top = 22};
  f.width = f.height = chart.width - f.left - 6;
  const double strip = 30, height = f.bottom() + 8 + strip + 30;
  std::string out = svg_begin(chart.width, height, chart.title, chart.description, "panel");
  for (const double value : {0.0, 0.5, 1.0}) {
    out += svg_line(f.left, f.y(value), f.right(), f.y(value), "grid");
    out += svg_line(f.x(value), f.top, f.x(value), f.bottom(), "grid");
    out += svg_text(f.left - 4, f.y(value) + 3.5, "end", brief(value));
  }
  out += svg_line(f.left, f.bottom(), f.right(), f.top, "diagonal");

  double most = 1;
  for (const auto* bins : {&chart.trained, &chart.beyond})
    for (const Bin& bin : *bins) most = std::max(most, bin.count);
  const double base = f.bottom() + 8 + strip;
  const auto draw = [&](const std::vector<Bin>& bins, std::string_view kind, std::string_view what, double side) {
    const double n = static_cast<double>(bins.size());
    std::string line, dots, bars;
    for (std::size_t i = 0; i < bins.size(); ++i) {
      const Bin& bin = bins[i];
      if (bin.count <= 0) continue;
      const double x = std::clamp(bin.confidence / bin.count, 0.0, 1.0), y = bin.right / bin.count;
      line += join({line.empty() ? "M" : "L", brief(f.x(x)), " ", brief(f.y(y))});
      dots += join({"<circle cx=\"", brief(f.x(x)), "\" cy=\"", brief(f.y(y)), "\" r=\"",
                      brief(1.8 + 3.4 * std::sqrt(bin.count / most)), "\"><title>", escape(what), ": confidence ", fixed(x, 2),
                      ", right ", fixed(y, 2), ", ", grouped(bin.count), bin.count == 1 ? " chain" : " chains", "</title></circle>"});
      const double wide = f.width / n, tall = std::max(1.0, strip * bin.count / most);
      bars += join({"M", brief(f.left + wide * (static_cast<double>(i) + 0.5) + side), " ", brief(base), "v-", brief(tall), "h",
                      brief(wide * 0.4), "v", brief(tall), "z"});
    }
    out += join({"<g class=\"s", chart.style, " ", kind, "\"><path class=\"ln\" d=\"", line, "\"/><path class=\"bar\" d=\"", bars,
                   "\"/>", dots, "</g>"});
  };
  const double bin_width = f.width / static_cast<double>(std::max<std::size_t>(1, std::max(chart.trained.size(), chart.beyond.size())));
  draw(chart.trained, "in", "trained lengths", -bin_width * 0.42);
  draw(chart.beyond, "out", "beyond", 0.0);
  out += svg_line(f.left, base, f.right(), base, "tick");
  out += svg_text(f.left - 4, base - strip + 8, "end", most >= 10000 ? join({brief(most / 1000, 0), "k"}) : brief(most, 0));
  for (const double value : {0.0, 0.5, 1.0})
    out += svg_text(f.x(value), base + 12, value == 1.0 ? "end" : "middle", brief(value));
  out += svg_text(0, 10, "start", "share right", "axis");
  out += svg_text(f.left + f.width / 2, base + 25, "middle", "confidence", "axis");
  return out += "</svg>";
}

}  // namespace relay::report
