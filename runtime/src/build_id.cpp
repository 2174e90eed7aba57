#include "build_id.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <elf.h>
#include <fstream>
#include <string_view>

using namespace flarec;
namespace fs = std::filesystem;

namespace {

template <typename T> bool readAt(std::ifstream &file, uint64_t at, T &value) {
  file.seekg(std::streamoff(at));
  return bool(file.read(reinterpret_cast<char *>(&value), sizeof value));
}

/// The build id among the notes of one segment: header, name and description
/// after another, each padded to `alignment`.
std::string findId(std::string_view notes, size_t alignment) {
  auto padded = [&](size_t n) {
    return (n + alignment - 1) & ~(alignment - 1);
  };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data(), sizeof note);
    notes.remove_prefix(sizeof note);
    size_t name = padded(note.n_namesz), size = padded(note.n_descsz);
    if (name > notes.size() || note.n_descsz > notes.size() - name)
      break;
    std::string id;
    for (char byte : notes.substr(name, note.n_descsz))
      id += fmt::format("{:02x}", uint8_t(byte));
    if (note.n_type == NT_GNU_BUILD_ID &&
        notes.substr(0, note.n_namesz) == std::string_view("GNU\0", 4))
      return id;
    notes.remove_prefix(std::min(notes.size(), name + size));
  }
  return {};
}

} // namespace

std::string flarec::buildId(const fs::path &path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) // reading a pipe would wait
    return {};
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header;
  if (!readAt(file, 0, header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_phentsize != sizeof(Elf64_Phdr))
    return {};
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    if (!readAt(file, header.e_phoff + i * sizeof segment, segment))
      return {};
    constexpr uint64_t most = 1 << 16; // notes are small; a damaged size is not
    if (segment.p_type != PT_NOTE || segment.p_filesz > most)
      continue;
    std::string notes(segment.p_filesz, '\0');
    file.seekg(std::streamoff(segment.p_offset));
    if (!file.read(notes.data(), std::streamsize(notes.size())))
      return {};
    if (std::string id = findId(notes, segment.p_align == 8 ? 8 : 4);
        !id.empty())
      return id;
  }
  return {};
}
