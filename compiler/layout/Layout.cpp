// Layouts as linear maps over bits; see Layout.h.
#include "layout/Layout.h"

using namespace flarec;

namespace {
const char *axisName = "nmd";

void add(Coordinates &c, const std::vector<Basis> &bases, int bits) {
  for (size_t i = 0; i < bases.size(); ++i)
    if (bits >> i & 1)
      c[bases[i].axis] += bases[i].step;
}

std::string list(const std::vector<Basis> &bases) {
  std::string s = "[";
  for (const Basis &b : bases)
    s += (s.size() > 1 ? ", " : "") + (b.step ? axisName[int(b.axis)] + std::to_string(b.step) : std::string("0"));
  return s + "]";
}

std::vector<Basis> steps(Axis a, int from, int to) {
  std::vector<Basis> r;
  for (int s = from; s < to; s *= 2)
    r.push_back({a, s});
  return r;
}

std::vector<Basis> join(std::initializer_list<std::vector<Basis>> parts) {
  std::vector<Basis> r;
  for (auto &p : parts)
    r.insert(r.end(), p.begin(), p.end());
  return r;
}

std::vector<Basis> channelUnits(int units) { return steps(Axis::d, 8, 8 * units); }
const Basis copy{};
} // namespace

int Layout::distinctLanes() const {
  size_t bits = lanes.size();
  while (bits && lanes[bits - 1].step == 0)
    --bits;
  return 1 << bits;
}

Coordinates Layout::element(int reg, int lane) const {
  Coordinates c;
  add(c, registers, reg);
  add(c, lanes, lane);
  return c;
}

Layout Layout::restrictedTo(bool n, bool m, bool d) const {
  bool keep[3] = {n, m, d};
  Layout r;
  for (const Basis &b : registers)
    if (b.step == 0 || keep[int(b.axis)])
      r.registers.push_back(b);
  for (const Basis &b : lanes)
    r.lanes.push_back(keep[int(b.axis)] ? b : copy);
  return r;
}

int Layout::matching(const Layout &other, int reg) const {
  Coordinates want = other.element(reg, 0);
  int r = 0;
  for (size_t i = 0; i < registers.size(); ++i) {
    if (registers[i].step == 0)
      continue;
    bool found = false;
    for (size_t j = 0; j < other.registers.size(); ++j)
      if (other.registers[j] == registers[i]) {
        found = true;
        if (reg >> j & 1)
          r |= 1 << i;
      }
    if (!found)
      return -1;
  }
  (void)want;
  return r;
}

int Layout::copies(int n, int m, int d) const {
  auto extent = [](int x) { return x ? x : 1; };
  std::vector<int> count(extent(n) * extent(m) * extent(d));
  for (int r = 0; r < registerCount(); ++r)
    for (int l = 0; l < laneCount(); ++l) {
      Coordinates c = element(r, l);
      if (c[Axis::n] >= extent(n) || c[Axis::m] >= extent(m) || c[Axis::d] >= extent(d))
        return 0;
      ++count[(c[Axis::n] * extent(m) + c[Axis::m]) * extent(d) + c[Axis::d]];
    }
  for (int c : count)
    if (c != count[0])
      return 0;
  return count[0];
}

std::string Layout::str() const { return "reg " + list(registers) + ", lane " + list(lanes); }

std::string Layout::table(Axis rows, Axis columns) const {
  int height = 0, width = 0;
  for (int r = 0; r < registerCount(); ++r)
    for (int l = 0; l < laneCount(); ++l) {
      Coordinates c = element(r, l);
      height = std::max(height, c[rows] + 1);
      width = std::max(width, c[columns] + 1);
    }
  std::vector<std::string> cells(height * width);
  for (int r = 0; r < registerCount(); ++r)
    for (int l = 0; l < laneCount(); ++l) {
      Coordinates c = element(r, l);
      std::string &cell = cells[c[rows] * width + c[columns]];
      if (cell.empty())
        cell = std::to_string(l) + ":" + std::to_string(r);
    }
  std::string s = std::string(1, axisName[int(rows)]) + "\\" + axisName[int(columns)];
  for (int j = 0; j < width; ++j)
    s += "\t" + std::to_string(j);
  for (int i = 0; i < height; ++i) {
    s += "\n" + std::to_string(i);
    for (int j = 0; j < width; ++j)
      s += "\t" + cells[i * width + j];
  }
  return s + "\n";
}

Layout fragment::pair(Axis r, Axis c) {
  return {{{c, 1}, {r, 8}, {c, 8}}, {{c, 2}, {c, 4}, {r, 1}, {r, 2}, {r, 4}}};
}
Layout fragment::row(Axis r, int units) {
  return {join({{{Axis::d, 1}, {r, 8}}, channelUnits(units)}), {{Axis::d, 2}, {Axis::d, 4}, {r, 1}, {r, 2}, {r, 4}}};
}
Layout fragment::column(Axis c, int units) {
  return {join({{{Axis::d, 1}}, channelUnits(units), {{c, 8}}}), {{Axis::d, 2}, {Axis::d, 4}, {c, 1}, {c, 2}, {c, 4}}};
}
Layout fragment::weight(Axis k, int units) {
  return {join({{{k, 1}, {k, 8}}, channelUnits(units)}), {{k, 2}, {k, 4}, {Axis::d, 1}, {Axis::d, 2}, {Axis::d, 4}}};
}
// The instruction's column j of unit u: bit 0 of j is a lane's two registers, bits 1 and 2 are lanes. Channel bits are, from the lowest on: bit 0 of j, so many of u's that a
// lane has up to 8 channels, bits 1 and 2 of j, the others of u. So a store of 8 channels, 16 bytes, is next to those of the quad's other lanes.
namespace {
int together(int units) { return std::min(units, 4); }
std::vector<Basis> unitsToStore(int units) {
  int side = together(units);
  return join({steps(Axis::d, 2, 2 * side), steps(Axis::d, 8 * side, 8 * units)});
}
Basis quadToStore(int units, int bit) { return {Axis::d, (2 << bit) * together(units)}; }
} // namespace
Layout fragment::rowToStore(Axis r, int units) {
  return {join({{{Axis::d, 1}, {r, 8}}, unitsToStore(units)}), {quadToStore(units, 0), quadToStore(units, 1), {r, 1}, {r, 2}, {r, 4}}};
}
Layout fragment::weightToStore(Axis k, int units) {
  return {join({{{k, 1}, {k, 8}}, unitsToStore(units)}), {{k, 2}, {k, 4}, {Axis::d, 1}, quadToStore(units, 0), quadToStore(units, 1)}};
}
Layout fragment::columnToStore(Axis k, int units) {
  return {join({{{Axis::d, 1}}, unitsToStore(units), {{k, 8}}}), {quadToStore(units, 0), quadToStore(units, 1), {k, 1}, {k, 2}, {k, 4}}};
}
Layout fragment::rowVector(Axis r) { return {{{r, 8}}, {copy, copy, {r, 1}, {r, 2}, {r, 4}}}; }
Layout fragment::rowSum(Axis r) { return {{copy, {r, 8}}, {copy, copy, {r, 1}, {r, 2}, {r, 4}}}; }
Layout fragment::columnVector(Axis c) { return {{{c, 1}, {c, 8}}, {{c, 2}, {c, 4}, copy, copy, copy}}; }

Layout flarec::latentsOverLanes(int latents, int channels) {
  int sharers = 32 / latents;
  Layout l{join({steps(Axis::d, 1, std::min(4, channels)), steps(Axis::d, 4 * sharers, channels)}), {}};
  for (int step = 4; step < 4 * sharers; step *= 2)
    l.lanes.push_back(step < channels ? Basis{Axis::d, step} : copy);
  for (Basis b : steps(Axis::m, 1, latents))
    l.lanes.push_back(b);
  return l;
}
