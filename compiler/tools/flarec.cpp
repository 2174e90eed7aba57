// flarec: compiles FLARE attention ahead of time, shows every stage on the way,
// and says what is in an artefact. `flarec --help` has examples.
#include "flarec-tool.h"

#include "flarec/compiler.h"
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>

using namespace flarec;
using namespace flarec::tool;

namespace {

constexpr std::array targets = {"host", "native", "sm_80", "sm_90a", "sm_100a"};

constexpr const char *examples = R"(Examples:
  flarec compile --head-dim 8 --latents 128 --dtype bf16 --target sm_90a --grad -o mixer.flare
      forward and backward of a mixer for an H100, in one file
  flarec compile attention.mlir --target host -o attention.flare
      any function of the flare dialect
  flarec compile --head-dim 8 --latents 128 --target sm_90a --emit sweeps
      what shares a pass over the tokens
  flarec tune --head-dim 8 --latents 128 --dtype bf16
      the fastest configurations for this GPU (or processor), kept for all later calls
  flarec info mixer.flare
  flarec list-stages --target host

`flarec compile --help` and so on say more.)";

} // namespace

std::string tool::checkTargetName(const std::string &name) {
  if (std::find(targets.begin(), targets.end(), name) != targets.end())
    return {};
  return fmt::format("there is no target '{}'; choose one of {}", name,
                     fmt::join(targets, ", "));
}

std::string tool::resolveTarget(const std::string &name) {
  if (std::string problem = checkTargetName(name); !problem.empty())
    throw UsageError("--target: " + problem);
  if (name != "native")
    return name;
  return CudaDriver::available() ? deviceTarget(0) : "host";
}

DType tool::dtypeFrom(const std::string &name) {
  if (name == "bf16")
    return DType::BF16;
  if (name == "f16" || name == "fp16")
    return DType::F16;
  if (name == "f32" || name == "fp32")
    return DType::F32;
  throw UsageError(fmt::format(
      "--dtype: '{}' is not supported; choose bf16, f16 or f32", name));
}

/// The text as a number, if it is one of 64 bits.
static std::optional<int64_t> parseNumber(std::string_view text) {
  int64_t number = 0;
  auto [end, failure] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return number;
}

CLI::Validator tool::wholeNumber(int64_t least, int64_t most) {
  return CLI::Validator(
      [=](std::string &text) -> std::string {
        std::optional<int64_t> number = parseNumber(text);
        if (number && *number >= least && *number <= most)
          return {};
        return fmt::format(
            "'{}' is not supported; give a whole number from {} to {}", text,
            least, most);
      },
      "");
}

std::string tool::grouped(int64_t number) {
  std::string text = fmt::format("{}", number);
  for (int i = int(text.size()) - 3; i > (number < 0); i -= 3)
    text.insert(size_t(i), ",");
  return text;
}

int main(int argc, char **argv) {
  CLI::App app("Compiles FLARE attention (arXiv 2508.12594) to GPU kernels or "
               "machine code.",
               "flarec");
  app.footer(examples);
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("flarec ") + flarec_version());
  addCompile(app);
  addInfo(app);
  addListStages(app);
  addTune(app);
  try {
    app.parse(argc, argv); // runs the subcommand
  } catch (const CLI::ParseError &error) {
    // The subcommand's own help and name belong in the message.
    const CLI::App *about = &app;
    for (const CLI::App *sub : app.get_subcommands())
      about = sub;
    if (error.get_exit_code() == 0)
      return app.exit(error);
    std::fprintf(stderr, "flarec: %s\nTry `flarec%s --help`.\n", error.what(),
                 about == &app ? "" : (" " + about->get_name()).c_str());
    return 2;
  } catch (const UsageError &error) {
    std::fprintf(stderr, "flarec: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc &) {
    std::fprintf(stderr, "flarec: there is not enough memory for this; ask for fewer heads, tokens or jobs\n");
    return 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "flarec: %s\n", error.what());
    return 1;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    std::fprintf(stderr, "flarec: what was printed could not be written: %s\n", std::strerror(errno));
    return 1;
  }
  return 0;
}
