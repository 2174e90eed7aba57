// One file of compiled kernels: docs/artefact.md, section 1.
#pragma once

#include "flarec/manifest.h"

#include <filesystem>

namespace flarec {

/// A verified artefact: manifest and code. Immutable; hold it by
/// shared_ptr<const Artefact>.
class Artefact {
public:
  static constexpr int format = 1;

  /// Lays the blobs out back to back; the manifest's offsets and sizes are set
  /// here.
  Artefact(Manifest manifest, const std::vector<std::string> &code);

  /// Throws Error unless magic, version, length, checksum and manifest are
  /// right.
  static Artefact parse(std::string_view bytes);
  std::string serialise() const;

  static Artefact read(const std::filesystem::path &path);
  /// Replaces the file at once: a reader sees the old one or the new one.
  void write(const std::filesystem::path &path) const;

  const Manifest &manifest() const { return contents; }
  std::string_view code(size_t index) const;

private:
  Artefact() = default;

  Manifest contents;
  std::string blobs;
};

} // namespace flarec
