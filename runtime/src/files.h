// Whole files in and out.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace flarec {

/// The bytes of a regular file, or nothing with `problem` set (errno, in
/// words). A missing file sets no problem.
std::optional<std::string> readFile(const std::filesystem::path &path,
                                    std::string &problem);

/// Writes a temporary beside `path` and renames it over: readers see the old
/// file or the new one. It is not synced: after a power failure the file may be
/// damaged, which the checksum finds. Returns what failed, or nothing.
std::optional<std::string> publishFile(const std::filesystem::path &path,
                                       std::string_view bytes);

/// Whether a name is one of publishFile's temporaries.
bool isTemporary(std::string_view fileName);

} // namespace flarec
