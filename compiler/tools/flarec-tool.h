// What the parts of the program `flarec` share.
#pragma once

#include "flarec/manifest.h"

#include <CLI/CLI.hpp>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace flarec::tool {

/// The command line contradicts itself: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Each adds a subcommand, which runs when it was asked for.
void addCompile(CLI::App &app);
void addInfo(CLI::App &app);
void addListStages(CLI::App &app);
void addTune(CLI::App &app);

/// The target to compile for; "native" becomes the first GPU's, or "host".
/// Throws UsageError.
std::string resolveTarget(const std::string &name);

/// What is wrong with the target's name; empty: nothing. For CLI11.
std::string checkTargetName(const std::string &name);

/// bf16, f16 or f32, or fp16 and fp32 for the latter two. Throws UsageError.
DType dtypeFrom(const std::string &name);

/// For CLI11: refuses all but numbers in this range, and says which they are.
CLI::Validator wholeNumber(int64_t least, int64_t most);

/// 1234567 as 1,234,567.
std::string grouped(int64_t number);

} // namespace flarec::tool
