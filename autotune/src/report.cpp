// The report: one page that needs nothing else. Plots are inline SVG.
#include "flarec/autotune/tuner.h"

#include "flarec/autotune/space.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

using namespace flarec;
using namespace flarec::autotune;

namespace {

constexpr std::array colours = {"#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b7791f", "#475569"};

std::string escaped(const std::string &text) {
  std::string out;
  for (char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

std::string nameOf(const SweepResult &sweep) {
  return fmt::format("{}, sweep {}", sweep.facts.function, sweep.facts.index);
}

/// A plot with two logarithmic axes.
class Plot {
public:
  Plot(std::string xLabel, std::string yLabel) : xLabel(std::move(xLabel)), yLabel(std::move(yLabel)) {}

  void point(double x, double y, size_t colour, const std::string &title, bool large = false) {
    if (!(x > 0 && y > 0))
      return;
    include(x, y);
    points.push_back({x, y, colour, title, large});
  }
  /// y = a·x^power, or a level.
  void line(double a, double power, const std::string &title) { lines.push_back({a, power, title}); }
  void include(double x, double y) {
    if (points.empty() && !fixed)
      left = right = x, low = high = y;
    fixed = true;
    left = std::min(left, x), right = std::max(right, x), low = std::min(low, y), high = std::max(high, y);
  }

  std::string svg() {
    if (points.empty())
      return "<p>nothing was measured</p>";
    double x0 = std::log10(left) - 0.1, x1 = std::log10(right) + 0.1, y0 = std::log10(low) - 0.1, y1 = std::log10(high) + 0.1;
    constexpr double width = 560, height = 380, margin = 62;
    auto px = [&](double x) { return margin + (std::log10(x) - x0) / (x1 - x0) * (width - margin - 12); };
    auto py = [&](double y) { return height - 44 - (std::log10(y) - y0) / (y1 - y0) * (height - 56); };
    std::string s = fmt::format("<svg viewBox='0 0 {0} {1}' width='{0}' height='{1}' role='img'><rect x='{2}' y='12' width='{3}' height='{4}' class='frame'/>", width, height,
                                margin, width - margin - 12, height - 56);
    auto ticks = [](double from, double to) {
      std::vector<double> all;
      for (int e = int(std::floor(from)); e <= int(std::ceil(to)); ++e)
        for (double m : {1.0, 2.0, 5.0})
          if (double v = m * std::pow(10, e); std::log10(v) >= from && std::log10(v) <= to && (to - from < 2 || m == 1))
            all.push_back(v);
      return all;
    };
    for (double x : ticks(x0, x1))
      s += fmt::format("<line x1='{0:.1f}' x2='{0:.1f}' y1='12' y2='{1}' class='grid'/><text x='{0:.1f}' y='{2}' class='tick' text-anchor='middle'>{3:g}</text>", px(x),
                       height - 44, height - 28, x);
    for (double y : ticks(y0, y1))
      s += fmt::format("<line y1='{0:.1f}' y2='{0:.1f}' x1='{1}' x2='{2}' class='grid'/><text x='{3}' y='{4:.1f}' class='tick' text-anchor='end'>{5:g}</text>", py(y), margin,
                       width - 12, margin - 5, py(y) + 4, y);
    for (auto &[a, power, title] : lines) {
      // Cut to the frame.
      double from = x0, to = x1;
      auto at = [&](double lx) { return std::log10(a) + power * lx; };
      if (power > 0) {
        from = std::max(from, (y0 - std::log10(a)) / power);
        to = std::min(to, (y1 - std::log10(a)) / power);
      } else if (at(x0) < y0 || at(x0) > y1) {
        continue;
      }
      if (from >= to)
        continue;
      double ax = px(std::pow(10, from)), ay = py(std::pow(10, at(from))), bx = px(std::pow(10, to)), by = py(std::pow(10, at(to)));
      s += fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' class='bound'/><text x='{:.1f}' y='{:.1f}' class='tick'>{}</text>", ax, ay, bx, by,
                       power > 0 ? (ax + bx) / 2 + 6 : ax + 6, (power > 0 ? (ay + by) / 2 : ay) - 4 + (power > 0 ? 14 : 0), escaped(title));
    }
    for (const Point &p : points)
      s += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='{}' fill='{}' fill-opacity='{}'><title>{}</title></circle>", px(p.x), py(p.y), p.large ? 6 : 3.2,
                       colours[p.colour % colours.size()], p.large ? 1 : 0.55, escaped(p.title));
    s += fmt::format("<text x='{}' y='{}' class='label' text-anchor='middle'>{}</text><text transform='translate(14,{}) rotate(-90)' class='label' text-anchor='middle'>{}</text></svg>",
                     (width + margin) / 2, height - 8, escaped(xLabel), (height - 44) / 2, escaped(yLabel));
    return s;
  }

private:
  struct Point {
    double x, y;
    size_t colour;
    std::string title;
    bool large;
  };
  struct Bound {
    double a, power;
    std::string title;
  };
  std::string xLabel, yLabel;
  std::vector<Point> points;
  std::vector<Bound> lines;
  bool fixed = false;
  double left = 0, right = 0, low = 0, high = 0;
};

std::string legend(const TuneResult &r) {
  std::string s = "<p class='legend'>";
  for (size_t i = 0; i < r.sweeps.size(); ++i)
    s += fmt::format("<span><i style='background:{}'></i>{}</span> ", colours[i % colours.size()], escaped(nameOf(r.sweeps[i])));
  return s + "</p>";
}

std::string textOf(const Configuration &c) {
  std::string s;
  for (auto &[field, value] : c)
    s += fmt::format("{}{} {}", s.empty() ? "" : ", ", field, value);
  return s;
}

std::string accuracyOfModel(const TuneResult &r) {
  Plot plot("measured, ms", "predicted, ms");
  plot.line(1, 1, "as predicted");
  for (size_t s = 0; s < r.sweeps.size(); ++s)
    for (size_t i = 0; i < r.sweeps[s].candidates.size(); ++i) {
      const Candidate &c = r.sweeps[s].candidates[i];
      if (c.measured > 0)
        plot.point(1e3 * c.measured, 1e3 * c.predicted.seconds, s, fmt::format("{}: {}", nameOf(r.sweeps[s]), textOf(c.configuration)), i == r.sweeps[s].chosen);
    }
  return "<h3>Predicted against measured</h3><p>Each dot a candidate, large ones the chosen.</p>" + legend(r) + plot.svg();
}

std::string roofline(const TuneResult &r) {
  Plot plot("scores a byte of memory", "scores a second, 10⁹");
  const Machine &m = r.machine;
  plot.line(m.bandwidth / 1e9, 1, "memory");
  if (m.target != "host") // a quarter's 4 lanes of the exponential unit
    plot.line(m.processors * 4 * 4 * m.clock / 1e9, 0, "one exponential a score, all on MUFU");
  for (size_t s = 0; s < r.sweeps.size(); ++s)
    for (size_t i : {size_t(0), r.sweeps[s].chosen}) {
      const Candidate &c = r.sweeps[s].candidates[i];
      if (c.measured > 0)
        plot.point(c.predicted.scores / std::max(1.0, c.predicted.bytes), c.predicted.scores / c.measured / 1e9, s,
                   fmt::format("{}, {}: {:.4f} ms", nameOf(r.sweeps[s]), i ? "tuned" : "heuristic", 1e3 * c.measured), i == r.sweeps[s].chosen);
    }
  return "<h3>Roofline</h3><p>Small dots: the heuristic's configurations.</p>" + legend(r) + plot.svg();
}

/// For each field the best time with each of its values.
std::string knobs(const TuneResult &r) {
  std::string s = "<h3>What each knob is worth</h3><p>Best time measured with a value over the best of all; a dash: every candidate with it stopped before it was "
                  "measured.</p><table><tr><th>sweep</th><th>field</th><th>values</th></tr>";
  for (size_t i = 0; i < r.sweeps.size(); ++i) {
    const SweepResult &sweep = r.sweeps[i];
    double best = 0;
    for (const Candidate &c : sweep.candidates)
      if (c.measured > 0 && (best == 0 || c.measured < best))
        best = c.measured;
    for (const Knob &knob : space(r.machine.target)) {
      std::map<std::string, double> times;
      for (const Candidate &c : sweep.candidates)
        if (auto it = c.configuration.find(knob.field); it != c.configuration.end()) {
          double &t = times[it->second];
          if (c.measured > 0 && (t == 0 || c.measured < t))
            t = c.measured;
        }
      if (times.size() < 2)
        continue;
      std::string cells;
      for (auto &[value, t] : times)
        cells += t > 0 ? fmt::format("<span class='bar' style='background:linear-gradient(90deg,{}55 {:.0f}%,transparent 0)'>{} <b>{:.2f}</b></span>",
                                     colours[i % colours.size()], std::min(100.0, 50 * t / best), escaped(value), t / best)
                       : fmt::format("<span class='bar'>{} –</span>", escaped(value));
      s += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td></tr>", escaped(nameOf(sweep)), knob.field, cells);
    }
  }
  return s + "</table>";
}

std::string funnel(const TuneResult &r) {
  std::string s = "<table><tr><th>sweep</th><th>combinations</th><th>can be run</th><th>kernels compiled</th><th>measured</th><th>heuristic, ms</th><th>tuned, ms</th><th></th><th>"
                  "registers, spills</th><th>predicted, ms</th><th>configuration</th></tr>";
  for (const SweepResult &sweep : r.sweeps) {
    size_t measured = 0;
    for (const Candidate &c : sweep.candidates)
      measured += c.measured > 0;
    const Candidate &before = sweep.candidates[0], &after = sweep.candidates[sweep.chosen];
    s += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.4f}</td><td>{:.4f}</td><td>{:.2f}×</td><td>{}</td><td>{:.4f}</td><td><code>{}</code></td></tr>",
                     escaped(nameOf(sweep)), sweep.combinations, sweep.feasible, sweep.compiled, measured, 1e3 * before.measured, 1e3 * after.measured,
                     after.measured > 0 ? before.measured / after.measured : 1,
                     after.registers ? fmt::format("{}, {}", after.registers, after.spills) : "", 1e3 * after.predicted.seconds, escaped(textOf(after.configuration)));
  }
  return s + "</table>";
}

} // namespace

std::string autotune::report(const std::vector<TuneResult> &results) {
  std::string s = "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>flarec tune</title><style>"
                  "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#1f2933}"
                  "table{border-collapse:collapse;margin:.5em 0}td,th{border:1px solid #d5dbe1;padding:3px 8px;text-align:left;vertical-align:top}"
                  "code{font-size:12px}.frame{fill:none;stroke:#9aa5b1}.grid{stroke:#e4e7eb}.tick{font-size:11px;fill:#52606d}.label{font-size:13px}"
                  ".bound{stroke:#52606d;stroke-dasharray:5 4}.legend i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:4px}"
                  ".legend span{margin-right:1em}.bar{display:inline-block;min-width:92px;padding:0 5px;margin:1px;border:1px solid #e4e7eb}"
                  ".plots{display:flex;flex-wrap:wrap;gap:1em}</style></head><body><h1>flarec tune</h1>";
  if (results.empty())
    s += "<p>Nothing was tuned in this run.</p>";
  for (const TuneResult &r : results) {
    const Shape &shape = r.entry.shape;
    s += fmt::format("<h2>H {}, D {}, M {}, N {}, {}</h2><p>{}{}, {}{}, compiler {}; {:.1f} s.</p>", shape.heads, shape.headDim, shape.latents, shape.tokens,
                     flarec::name(shape.dtype), escaped(r.device.name), r.device.isa.empty() ? "" : " (" + r.device.isa + ")", r.entry.date,
                     r.entry.clock ? fmt::format(", {} MHz", r.entry.clock) : "", escaped(r.entry.compiler), r.seconds);
    s += "<table><tr><th></th><th>heuristic, ms</th><th>tuned, ms</th><th></th></tr>";
    for (auto &[name, f] : r.entry.functions)
      s += fmt::format("<tr><td>{}</td><td>{:.4f}</td><td>{:.4f}</td><td>{:.2f}×</td></tr>", escaped(name), f.before, f.milliseconds,
                       f.milliseconds > 0 ? f.before / f.milliseconds : 1);
    s += "</table>" + funnel(r) + "<div class='plots'><div>" + accuracyOfModel(r) + "</div><div>" + roofline(r) + "</div></div>" + knobs(r);
  }
  return s + "</body></html>\n";
}
