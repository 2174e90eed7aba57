#include "flarec/artefact.h"

#include "files.h"
#include "flarec/error.h"
#include "flarec/sha256.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

using namespace flarec;

namespace {

constexpr std::string_view magic("FLAREC\0", 7);
constexpr size_t checksumAt = 8, lengthAt = 40, manifestAt = 48;

} // namespace

Artefact::Artefact(Manifest manifest, const std::vector<std::string> &code)
    : contents(std::move(manifest)) {
  if (code.size() != contents.code.size())
    throw Error(
        fmt::format("the manifest describes {} code blobs, but {} were given",
                    contents.code.size(), code.size()));
  for (size_t i = 0; i < code.size(); ++i) {
    contents.code[i].offset = blobs.size();
    contents.code[i].size = code[i].size();
    blobs += code[i];
  }
}

std::string Artefact::serialise() const {
  std::string json = contents.json();
  std::string body;
  body.reserve(8 + json.size() + blobs.size());
  for (int i = 0; i < 8; ++i)
    body += char(uint64_t(json.size()) >> (8 * i));
  body += json;
  body += blobs;
  Sha256 sum = sha256(body);

  std::string bytes(magic);
  bytes += char(format);
  bytes.append(reinterpret_cast<const char *>(sum.data()), sum.size());
  return bytes += body;
}

Artefact Artefact::parse(std::string_view bytes) {
  if (bytes.size() < magic.size() + 1 || !bytes.starts_with(magic))
    throw Error("this is not a flarec artefact: it does not begin with "
                "\"FLAREC\"; give a file written by `flarec compile`");
  if (int version = uint8_t(bytes[magic.size()]); version != format)
    throw Error(fmt::format("the artefact has format version {}, this runtime "
                            "reads version {}; compile it again with flarec of "
                            "the same version",
                            version, format));
  constexpr const char *again = "; copy or compile it again";
  if (bytes.size() < manifestAt)
    throw Error(fmt::format("the artefact is damaged: {} bytes, the header "
                            "alone has {}{}",
                            bytes.size(), manifestAt, again));
  Sha256 sum = sha256(bytes.substr(lengthAt));
  if (std::memcmp(sum.data(), bytes.data() + checksumAt, sum.size()) != 0)
    throw Error(fmt::format(
        "the artefact is damaged: its checksum does not match{}", again));
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i)
    length |= uint64_t(uint8_t(bytes[lengthAt + i])) << (8 * i);
  if (length > bytes.size() - manifestAt)
    throw Error(fmt::format("the artefact is damaged: a manifest of {} bytes "
                            "in a file of {}{}",
                            length, bytes.size(), again));

  Artefact artefact;
  artefact.contents = Manifest::parse(bytes.substr(manifestAt, length));
  artefact.blobs = bytes.substr(manifestAt + length);
  uint64_t blobBytes = artefact.blobs.size();
  for (size_t i = 0; i < artefact.contents.code.size(); ++i) {
    const CodeSpec &code = artefact.contents.code[i];
    if (code.offset > blobBytes || code.size > blobBytes - code.offset)
      throw Error(fmt::format("the artefact is damaged: code[{}] takes bytes "
                              "{} to {} of {}{}",
                              i, code.offset, code.offset + code.size,
                              blobBytes, again));
    // The driver looks for the end of the text itself.
    if (code.kind == CodeKind::Ptx && !artefact.code(i).ends_with('\0'))
      throw Error(fmt::format(
          "the artefact is damaged: the PTX of code[{}] does not end in a zero",
          i));
  }
  return artefact;
}

std::string_view Artefact::code(size_t index) const {
  const CodeSpec &spec = contents.code.at(index);
  return std::string_view(blobs).substr(spec.offset, spec.size);
}

Artefact Artefact::read(const std::filesystem::path &path) {
  std::string problem;
  std::optional<std::string> bytes = readFile(path, problem);
  if (!bytes)
    throw Error(fmt::format("cannot read the artefact {}: {}", path.string(),
                            problem.empty() ? "no such file" : problem));
  try {
    return parse(*bytes);
  } catch (const Error &error) {
    throw Error(fmt::format("{}: {}", path.string(), error.what()));
  }
}

void Artefact::write(const std::filesystem::path &path) const {
  // A device or a pipe that the user names is written to: published, it would
  // be replaced by a file.
  std::error_code ignored;
  auto kind = std::filesystem::status(path, ignored).type();
  if (kind == std::filesystem::file_type::character ||
      kind == std::filesystem::file_type::block ||
      kind == std::filesystem::file_type::fifo) {
    std::ofstream out(path, std::ios::binary);
    out << serialise() << std::flush;
    if (!out)
      throw Error(fmt::format("cannot write the artefact {}: {}", path.string(),
                              std::strerror(errno)));
    return;
  }
  if (auto problem = publishFile(path, serialise()))
    throw Error(fmt::format("cannot write the artefact {}: {}", path.string(),
                            *problem));
}
