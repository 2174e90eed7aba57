// What tuning has found, and how a call finds it: tables of configurations, one
// file a device. Needs the runtime and nothing of the compiler.
//
// Tuning writes into the user's directory: $FLAREC_TUNE_DIR, else
// $XDG_DATA_HOME/flarec, else $HOME/.local/share/flarec. Tables that came with
// this build (autotune/tables/) are under them. docs/architecture.md, section
// 10, has the format and the rules.
#pragma once

#include "flarec/description.h"
#include "flarec/function.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flarec::autotune {

/// Fields of a sweep's configuration and their values as text, without quotes.
/// Which fields there are is the compiler's business.
using Configuration = std::map<std::string, std::string>;

/// How k, v and y lie in memory: [B,N,H·D] seen as [B,H,N,D], or [B,H,N,D].
enum class Layout { TokensMajor, HeadsMajor };
std::string_view name(Layout layout);

/// Where kernels run. For the host the name is the processor's and `isa` the
/// best instruction set; for a GPU it is the driver's name and `isa` is empty.
struct Device {
  std::string name, target, isa;

  bool operator==(const Device &) const = default;
};
/// Of a CUDA device by number, or of the host (-1). Asked once.
const Device &deviceOf(int cudaDevice);

/// What a call is, for the choice of its kernels. B, H, N and strides are
/// run-time values; a table may still have found that other kernels serve.
struct Shape {
  DType dtype = DType::F32;
  int headDim = 0, latents = 0;
  int64_t heads = 0;
  int64_t tokens = 0; ///< of all batches
  Layout layout = Layout::TokensMajor;
};

/// The range of token numbers that one entry serves: its first and last.
/// Factors of 8: what a configuration depends on is how much work a block has.
std::pair<int64_t, int64_t> tokenRange(int64_t tokens);

/// One function's sweeps, in order.
struct TunedFunction {
  std::vector<Configuration> sweeps; ///< empty ones: the heuristic's
  double milliseconds = 0; ///< with these
  double before = 0;       ///< with the heuristic's, measured beside it

  bool operator==(const TunedFunction &) const = default;
};

struct Entry {
  Shape shape; ///< tokens: at which it was measured
  std::map<std::string, TunedFunction> functions;
  std::string date, compiler;
  int clock = 0; ///< MHz while measuring; 0: not known

  /// The same key: a later entry replaces this one.
  bool sameKey(const Entry &other) const;
};

struct Table {
  static constexpr int format = 1;
  Device device;
  std::vector<Entry> entries;

  /// Throws Error unless the text is a table of this format.
  static Table parse(const std::string &json);
  std::string json() const;
  void put(Entry entry);
  /// "nvidia-h100-80gb-hbm3.json".
  std::string fileName() const;
};

/// Tables laid over one another.
class Database {
public:
  /// `directory` is read now; empty or missing: the shipped tables alone. What
  /// cannot be used is reported, once, on stderr.
  explicit Database(const std::filesystem::path &directory,
                    bool withShipped = true);

  /// With the user's directory, read at the first call.
  static const Database &process();
  static std::filesystem::path defaultDirectory();

  /// The entry whose configurations serve a shape best: of this device's tables
  /// (of its target's, where it has none) and of this D, M and dtype the one
  /// from which the model expects to lose least. Null where there is none. A
  /// pure function of tables, device and shape, so all ranks of a job get the
  /// same.
  const Entry *find(const Device &device, const Shape &shape) const;

  const std::vector<Table> &tables() const { return all; }

private:
  std::vector<Table> all; // the user's first
};

/// The share of time that the model expects a shape to lose with an entry that
/// was made for another one: idle heads of a block, tiles of the last round,
/// and the distance in work. 0: none. For Database::find.
double expectedLoss(const Entry &entry, const Shape &shape);

/// The request's `config` (docs/artefact.md, section 4) of an entry's functions;
/// empty where all are the heuristic's.
std::string configurationText(const std::map<std::string, TunedFunction> &functions,
                              bool withBackward = true);
std::string configurationText(const Configuration &configuration);

/// Makes the directory of the user's tables, if need be. Throws Error where it
/// cannot be made or written: before tuning, not after it.
void prepare(const std::filesystem::path &directory);

/// Adds an entry to the user's table of a device and publishes it at once.
/// Throws Error where it cannot be written.
void record(const std::filesystem::path &directory, const Device &device,
            Entry entry);

/// What a call says of itself beside its mixer's description.
struct Call {
  int cudaDevice = -1; ///< -1: the host
  int64_t heads = 0, tokens = 0; ///< tokens of all batches
  Layout layout = Layout::TokensMajor;
};

/// Kernels for a description and a call: where the description leaves the
/// configuration open and a table has one, with that. Where an artefact was
/// added for the description as it stands, or kernels with the table's
/// configuration cannot be had, those without. One look-up after the first
/// call of a kind; a number of tokens in the same range compiles nothing.
std::shared_ptr<Module> kernelsFor(const MixerDescription &description,
                                   const Call &call);

} // namespace flarec::autotune
