// Which build of a program or library a file is.
#pragma once

#include <filesystem>
#include <string>

namespace flarec {

/// The GNU build id that the linker has put into an ELF file, in hexadecimal: a
/// hash of everything in it. Empty when the file cannot be read or has none.
std::string buildId(const std::filesystem::path &path);

} // namespace flarec
