//===- Link.cpp - Relocatable object to shared library
//----------------------===//
//
// A linker for one object that needs nothing: no archives, no dependences, no
// lazy binding, no unwinding. It exists because lld, used as a library,
// installs signal handlers (SIGSEGV too), resets every command-line option of
// the process, exits on malformed input and keeps global state; none of that
// belongs in somebody else's process.
//
// The image is laid out with file offsets equal to addresses:
//
//   R      headers, .dynsym, .dynstr, .gnu.hash, .rela.dyn, constants
//   RX     code
//   RW     .dynamic, .got, .data.rel.ro: read-only once relocated
//   RW     data, and the space of .bss beyond the end of the file
//
// followed by section headers, which the loader ignores and perf, gdb and
// objdump want.
//
//===----------------------------------------------------------------------===//

#include "Codegen.h"
#include "Guard.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/BinaryFormat/ELF.h"
#include "llvm/Object/ELF.h"
#include "llvm/Support/MathExtras.h"
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <vector>

using namespace llvm;
using namespace llvm::ELF;
using flarec::detail::makeError;

namespace {

static_assert(std::endian::native == std::endian::little,
              "tables are written as they lie in memory");

using ElfFile = object::ELFFile<object::ELF64LE>;
using InputSection = ElfFile::Elf_Shdr;
using InputSymbol = ElfFile::Elf_Sym;
using InputRelocation = ElfFile::Elf_Rela;

constexpr uint64_t pageSize = 0x1000;

/// Where a chunk goes; the chunks are sorted by it.
enum class Place { ReadOnly, Code, Relro, Data, Bss };

/// A stretch of the image: a section of the input or a table of ours.
struct Chunk {
  std::string name;
  Place place;
  uint32_t type;
  uint64_t flags, size, alignment;
  uint64_t entrySize = 0;
  const char *link = nullptr; // name of the section that sh_link points to
  uint32_t info = 0;
  ArrayRef<uint8_t> contents; // of an input section
  const InputSection *source = nullptr;
  uint64_t address = 0;
};

uint32_t gnuHash(StringRef name) {
  uint32_t hash = 5381;
  for (unsigned char c : name)
    hash = hash * 33 + c;
  return hash;
}

class Linker {
public:
  Linker(const ElfFile &file, ArrayRef<std::string> exports)
      : file(file), exportNames(exports) {}

  Expected<std::string> run() {
    if (Error error = readSections())
      return error;
    if (Error error = readSymbols())
      return error;
    if (Error error = scanRelocations())
      return error;
    if (Error error = addTables())
      return error;
    if (Error error = assignAddresses())
      return error;
    image.resize(fileEnd);
    if (Error error = relocate())
      return error;
    writeTables();
    writeHeaders();
    return std::move(image);
  }

private:
  struct Export {
    StringRef name;
    const InputSymbol *symbol;
    uint32_t hash;
  };

  //===--- Reading --------------------------------------------------------===//

  Error readSections() {
    auto all = file.sections();
    if (!all)
      return all.takeError();
    sections = *all;
    chunkOfSection.assign(sections.size(), -1);
    for (auto [index, section] : enumerate(sections)) {
      if (section.sh_type == SHT_SYMTAB)
        symbolTable = &section;
      if (!(section.sh_flags & SHF_ALLOC) || section.sh_size == 0)
        continue;
      Expected<StringRef> name = file.getSectionName(section);
      if (!name)
        return name.takeError();
      if (*name == ".eh_frame" || section.sh_type == SHT_NOTE)
        continue;
      if (section.sh_flags & SHF_TLS)
        return makeError("thread-local data in " + *name);
      if (section.sh_type != SHT_PROGBITS && section.sh_type != SHT_NOBITS)
        return makeError("section " + *name + " of unsupported type " +
                         Twine(section.sh_type));
      uint64_t alignment = std::max<uint64_t>(section.sh_addralign, 1);
      if (!isPowerOf2_64(alignment) || alignment > pageSize)
        return makeError("alignment " + Twine(alignment) + " of " + *name);
      if (section.sh_size > INT32_MAX)
        return makeError("size of " + *name);

      Chunk chunk;
      chunk.name = name->str();
      chunk.type = section.sh_type;
      chunk.flags = section.sh_flags & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR);
      chunk.size = section.sh_size;
      chunk.alignment = alignment;
      chunk.source = &section;
      bool writable = section.sh_flags & SHF_WRITE;
      if (section.sh_flags & SHF_EXECINSTR)
        chunk.place = Place::Code;
      else if (section.sh_type == SHT_NOBITS)
        chunk.place = Place::Bss;
      else if (writable)
        chunk.place =
            name->starts_with(".data.rel.ro") ? Place::Relro : Place::Data;
      else
        chunk.place = Place::ReadOnly;
      if ((chunk.place == Place::Code && writable) ||
          (chunk.place == Place::Bss && !writable))
        return makeError("flags of " + *name);
      if (section.sh_type != SHT_NOBITS) {
        auto contents = file.getSectionContents(section);
        if (!contents)
          return contents.takeError();
        chunk.contents = *contents;
      }
      chunkOfSection[index] = chunks.size();
      chunks.push_back(std::move(chunk));
    }
    return Error::success();
  }

  Error readSymbols() {
    if (!symbolTable)
      return makeError("no symbol table");
    auto all = file.symbols(symbolTable);
    if (!all)
      return all.takeError();
    symbols = *all;
    Expected<StringRef> names = file.getStringTableForSymtab(*symbolTable);
    if (!names)
      return names.takeError();
    symbolNames = *names;

    std::map<StringRef, const InputSymbol *> defined;
    for (const InputSymbol &symbol : symbols) {
      Expected<StringRef> name = symbol.getName(symbolNames);
      if (!name)
        return name.takeError();
      if (symbol.getBinding() != STB_LOCAL && symbol.st_shndx != SHN_UNDEF)
        defined[*name] = &symbol;
    }
    SetVector<StringRef> missing;
    for (const std::string &name : exportNames) {
      auto found = defined.find(name);
      if (found == defined.end()) {
        missing.insert(name);
        continue;
      }
      if (Error error = checkSymbol(*found->second))
        return error;
      exports.push_back({found->first, found->second, gnuHash(name)});
    }
    if (!missing.empty())
      return makeError("exported but not defined: " +
                       join(missing.begin(), missing.end(), ", "));
    // .gnu.hash wants the symbols of a bucket next to each other.
    buckets = std::max<size_t>(exports.size(), 1);
    std::sort(exports.begin(), exports.end(),
              [&](const Export &a, const Export &b) {
                return std::make_pair(a.hash % buckets, a.name) <
                       std::make_pair(b.hash % buckets, b.name);
              });
    exports.erase(std::unique(exports.begin(), exports.end(),
                              [](const Export &a, const Export &b) {
                                return a.name == b.name;
                              }),
                  exports.end());
    return Error::success();
  }

  StringRef nameOf(const InputSymbol &symbol) const {
    return cantFail(symbol.getName(symbolNames)); // readSymbols read them all
  }

  /// That a symbol has an address in the image.
  Error checkSymbol(const InputSymbol &symbol) const {
    if (symbol.getType() == STT_GNU_IFUNC || symbol.getType() == STT_TLS)
      return makeError("unsupported type of symbol " + nameOf(symbol));
    if (symbol.st_shndx == SHN_ABS)
      return Error::success();
    if (symbol.st_shndx >= SHN_LORESERVE)
      return makeError("unsupported section of symbol " + nameOf(symbol));
    if (symbol.st_shndx >= sections.size())
      return makeError("bad section of symbol " + nameOf(symbol));
    if (chunkOfSection[symbol.st_shndx] < 0)
      return makeError("symbol " + nameOf(symbol) +
                       " lies in a section that is not kept");
    return Error::success();
  }

  uint64_t addressOf(const InputSymbol &symbol) const {
    if (symbol.st_shndx == SHN_ABS)
      return symbol.st_value;
    return chunks[chunkOfSection[symbol.st_shndx]].address + symbol.st_value;
  }

  static bool needsGot(uint32_t type) {
    return type == R_X86_64_GOTPCREL || type == R_X86_64_GOTPCRELX ||
           type == R_X86_64_REX_GOTPCRELX;
  }

  /// Calls `visit` for every relocation of a section that is kept.
  Error
  forEachRelocation(function_ref<Error(const Chunk &, const InputRelocation &,
                                       const InputSymbol &)>
                        visit) const {
    for (const InputSection &section : sections) {
      if (section.sh_type != SHT_RELA && section.sh_type != SHT_REL)
        continue;
      if (section.sh_info >= sections.size())
        return makeError("bad relocation section");
      if (chunkOfSection[section.sh_info] < 0)
        continue;
      const Chunk &chunk = chunks[chunkOfSection[section.sh_info]];
      auto relocations = file.relas(section);
      if (!relocations)
        return relocations.takeError();
      for (const InputRelocation &relocation : *relocations) {
        uint32_t index = relocation.getSymbol(/*isMips64EL=*/false);
        if (index >= symbols.size())
          return makeError("bad symbol in relocation of " + chunk.name);
        if (Error error = visit(chunk, relocation, symbols[index]))
          return error;
      }
    }
    return Error::success();
  }

  Error scanRelocations() {
    SetVector<StringRef> undefined;
    Error error = forEachRelocation([&](const Chunk &chunk,
                                        const InputRelocation &relocation,
                                        const InputSymbol &symbol) -> Error {
      uint32_t type = relocation.getType(/*isMips64EL=*/false);
      if (type == R_X86_64_NONE)
        return Error::success();
      if (symbol.st_shndx == SHN_UNDEF) {
        undefined.insert(nameOf(symbol));
        return Error::success();
      }
      if (Error error = checkSymbol(symbol))
        return error;
      uint64_t width = 4;
      if (type == R_X86_64_64 || type == R_X86_64_PC64)
        width = 8;
      else if (type != R_X86_64_PC32 && type != R_X86_64_PLT32 &&
               !needsGot(type))
        return makeError("relocation " +
                         object::getELFRelocationTypeName(EM_X86_64, type) +
                         " in " + chunk.name +
                         ": not position-independent or not supported");
      if (chunk.type == SHT_NOBITS || relocation.r_offset > chunk.size ||
          chunk.size - relocation.r_offset < width)
        return makeError("relocation outside of " + chunk.name);
      if (type == R_X86_64_64 && symbol.st_shndx != SHN_ABS) {
        if (!(chunk.flags & SHF_WRITE))
          return makeError("address of " + nameOf(symbol) +
                           " in read-only section " + chunk.name);
        ++relativeCount;
      }
      if (needsGot(type))
        gotSlots.insert(&symbol);
      return Error::success();
    });
    if (error)
      return error;
    if (!undefined.empty())
      return makeError("undefined symbol: " +
                       join(undefined.begin(), undefined.end(), ", ") +
                       " (kernels are linked with nothing, not even libc)");
    for (const InputSymbol *symbol : gotSlots)
      if (symbol->st_shndx != SHN_ABS)
        ++relativeCount;
    return Error::success();
  }

  //===--- Layout ---------------------------------------------------------===//

  void addTable(const char *name, Place place, uint32_t type, uint64_t flags,
                uint64_t size, uint64_t entrySize, const char *link,
                uint32_t info = 0) {
    Chunk chunk;
    chunk.name = name;
    chunk.place = place;
    chunk.type = type;
    chunk.flags = SHF_ALLOC | flags;
    chunk.size = size;
    chunk.alignment = 8;
    chunk.entrySize = entrySize;
    chunk.link = link;
    chunk.info = info;
    tables.push_back(std::move(chunk));
  }

  Error addTables() {
    dynamicNames.push_back('\0');
    for (const Export &symbol : exports) {
      dynamicNameOffsets.push_back(dynamicNames.size());
      dynamicNames += symbol.name;
      dynamicNames.push_back('\0');
    }
    addTable(".dynsym", Place::ReadOnly, SHT_DYNSYM, 0,
             (exports.size() + 1) * sizeof(Elf64_Sym), sizeof(Elf64_Sym),
             ".dynstr", /*first global=*/1);
    addTable(".dynstr", Place::ReadOnly, SHT_STRTAB, 0, dynamicNames.size(), 0,
             nullptr);
    // Header, one word of Bloom filter, buckets, one value for each symbol.
    addTable(".gnu.hash", Place::ReadOnly, SHT_GNU_HASH, 0,
             16 + 8 + 4 * buckets + 4 * exports.size(), 0, ".dynsym");
    if (relativeCount)
      addTable(".rela.dyn", Place::ReadOnly, SHT_RELA, 0,
               relativeCount * sizeof(Elf64_Rela), sizeof(Elf64_Rela),
               ".dynsym");
    addTable(".dynamic", Place::Relro, SHT_DYNAMIC, SHF_WRITE,
             (relativeCount ? 10 : 6) * sizeof(Elf64_Dyn), sizeof(Elf64_Dyn),
             ".dynstr");
    if (!gotSlots.empty())
      addTable(".got", Place::Relro, SHT_PROGBITS, SHF_WRITE,
               gotSlots.size() * 8, 8, nullptr);
    return Error::success();
  }

  Error assignAddresses() {
    for (Chunk &table : tables)
      order.push_back(&table);
    for (Chunk &chunk : chunks)
      order.push_back(&chunk);
    std::stable_sort(order.begin(), order.end(),
                     [](Chunk *a, Chunk *b) { return a->place < b->place; });
    // At most four PT_LOADs, PT_DYNAMIC, PT_GNU_RELRO, PT_GNU_STACK.
    uint64_t address = sizeof(Elf64_Ehdr) + 7 * sizeof(Elf64_Phdr);
    segments.push_back({PT_LOAD, PF_R, 0, 0, 0, address, address, pageSize});
    Place place = Place::ReadOnly;
    for (Chunk *chunk : order) {
      bool sameSegment = chunk->place == place ||
                         (place == Place::Data && chunk->place == Place::Bss);
      if (!sameSegment) {
        address = alignTo(address, pageSize);
        uint32_t flags =
            chunk->place == Place::Code ? PF_R | PF_X : PF_R | PF_W;
        segments.push_back(
            {PT_LOAD, flags, address, address, address, 0, 0, pageSize});
      }
      place = chunk->place;
      address = alignTo(address, chunk->alignment);
      chunk->address = address;
      address += chunk->size;
      Elf64_Phdr &segment = segments.back();
      segment.p_memsz = address - segment.p_vaddr;
      if (chunk->type != SHT_NOBITS) {
        segment.p_filesz = segment.p_memsz;
        fileEnd = address;
      }
      if (chunk->place == Place::Relro)
        relroEnd = address;
    }
    if (address > INT32_MAX)
      return makeError("more than 2 GiB");
    const Chunk &dynamic = *table(".dynamic");
    segments.push_back({PT_DYNAMIC, PF_R | PF_W, dynamic.address,
                        dynamic.address, dynamic.address, dynamic.size,
                        dynamic.size, 8});
    // Whole pages: the next segment starts on one of its own.
    uint64_t relroSize = alignTo(relroEnd, pageSize) - dynamic.address;
    segments.push_back({PT_GNU_RELRO, PF_R, dynamic.address, dynamic.address,
                        dynamic.address, relroEnd - dynamic.address, relroSize,
                        1});
    segments.push_back({PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16});
    return Error::success();
  }

  const Chunk *table(StringRef name) const {
    for (const Chunk &chunk : tables)
      if (chunk.name == name)
        return &chunk;
    return nullptr;
  }

  //===--- Writing --------------------------------------------------------===//

  template <typename T> void put(uint64_t offset, const T &value) {
    std::memcpy(image.data() + offset, &value, sizeof value);
  }

  void putRelative(uint64_t address, uint64_t target) {
    Elf64_Rela entry;
    entry.r_offset = address;
    entry.setSymbolAndType(0, R_X86_64_RELATIVE);
    entry.r_addend = target;
    put(table(".rela.dyn")->address + nextRelative++ * sizeof entry, entry);
    put(address, target);
  }

  Error relocate() {
    for (const Chunk &chunk : chunks)
      if (!chunk.contents.empty())
        std::memcpy(image.data() + chunk.address, chunk.contents.data(),
                    chunk.contents.size());
    uint64_t gotAddress = gotSlots.empty() ? 0 : table(".got")->address;
    for (auto [index, symbol] : enumerate(gotSlots)) {
      uint64_t slot = gotAddress + 8 * index;
      if (symbol->st_shndx == SHN_ABS)
        put(slot, addressOf(*symbol));
      else
        putRelative(slot, addressOf(*symbol));
    }
    return forEachRelocation([&](const Chunk &chunk,
                                 const InputRelocation &relocation,
                                 const InputSymbol &symbol) -> Error {
      uint32_t type = relocation.getType(/*isMips64EL=*/false);
      if (type == R_X86_64_NONE)
        return Error::success();
      uint64_t place = chunk.address + relocation.r_offset;
      uint64_t target = addressOf(symbol) + relocation.r_addend;
      if (type == R_X86_64_64) {
        if (symbol.st_shndx == SHN_ABS)
          put(place, target);
        else
          putRelative(place, target);
        return Error::success();
      }
      if (type == R_X86_64_PC64) {
        put(place, target - place);
        return Error::success();
      }
      if (needsGot(type)) {
        const auto *slot = std::find(gotSlots.begin(), gotSlots.end(), &symbol);
        target =
            gotAddress + 8 * (slot - gotSlots.begin()) + relocation.r_addend;
      }
      int64_t distance = target - place;
      if (!isInt<32>(distance))
        return makeError("relocation out of range: " + nameOf(symbol) + " in " +
                         chunk.name);
      put(place, int32_t(distance));
      return Error::success();
    });
  }

  void writeTables() {
    // Symbol 0 is the null symbol, and so the bytes are.
    uint64_t at = table(".dynsym")->address + sizeof(Elf64_Sym);
    for (auto [index, exported] : enumerate(exports)) {
      Elf64_Sym entry = {};
      entry.st_name = dynamicNameOffsets[index];
      entry.setBindingAndType(STB_GLOBAL, exported.symbol->getType());
      entry.st_other = STV_DEFAULT;
      entry.st_shndx =
          exported.symbol->st_shndx == SHN_ABS
              ? uint16_t(SHN_ABS)
              : sectionIndex(chunks[chunkOfSection[exported.symbol->st_shndx]]);
      entry.st_value = addressOf(*exported.symbol);
      entry.st_size = exported.symbol->st_size;
      put(at, entry);
      at += sizeof entry;
    }
    std::memcpy(image.data() + table(".dynstr")->address, dynamicNames.data(),
                dynamicNames.size());

    constexpr uint32_t bloomShift = 6;
    uint64_t bloom = 0;
    std::vector<uint32_t> firsts(buckets, 0), chain;
    for (auto [index, exported] : enumerate(exports)) {
      uint32_t hash = exported.hash, bucket = hash % buckets;
      bloom |= uint64_t(1) << (hash % 64);
      bloom |= uint64_t(1) << ((hash >> bloomShift) % 64);
      if (!firsts[bucket])
        firsts[bucket] = index + 1;
      bool last = index + 1 == exports.size() ||
                  exports[index + 1].hash % buckets != bucket;
      chain.push_back((hash & ~1u) | last);
    }
    uint64_t hashAt = table(".gnu.hash")->address;
    const uint32_t header[4] = {uint32_t(buckets), /*first symbol=*/1,
                                /*Bloom words=*/1, bloomShift};
    put(hashAt, header);
    put(hashAt + 16, bloom);
    std::memcpy(image.data() + hashAt + 24, firsts.data(), 4 * firsts.size());
    std::memcpy(image.data() + hashAt + 24 + 4 * firsts.size(), chain.data(),
                4 * chain.size());

    at = table(".dynamic")->address;
    auto dynamic = [&](int64_t tag, uint64_t value) {
      Elf64_Dyn entry;
      entry.d_tag = tag;
      entry.d_un.d_val = value;
      put(at, entry);
      at += sizeof entry;
    };
    dynamic(DT_GNU_HASH, hashAt);
    dynamic(DT_SYMTAB, table(".dynsym")->address);
    dynamic(DT_SYMENT, sizeof(Elf64_Sym));
    dynamic(DT_STRTAB, table(".dynstr")->address);
    dynamic(DT_STRSZ, dynamicNames.size());
    if (relativeCount) {
      dynamic(DT_RELA, table(".rela.dyn")->address);
      dynamic(DT_RELASZ, relativeCount * sizeof(Elf64_Rela));
      dynamic(DT_RELAENT, sizeof(Elf64_Rela));
      dynamic(DT_RELACOUNT, relativeCount);
    }
    dynamic(DT_NULL, 0);
  }

  /// Section headers are in the order of the image, after the null header.
  uint16_t sectionIndex(const Chunk &chunk) const {
    return 1 + (find(order, &chunk) - order.begin());
  }

  void writeHeaders() {
    std::string names(1, '\0');
    std::vector<Elf64_Shdr> headers(1);
    std::memset(headers.data(), 0, sizeof(Elf64_Shdr));
    auto addName = [&](StringRef name) {
      uint32_t offset = names.size();
      names += name;
      names.push_back('\0');
      return offset;
    };
    for (const Chunk *chunk : order)
      headers.push_back({addName(chunk->name), chunk->type, chunk->flags,
                         chunk->address, std::min(chunk->address, fileEnd),
                         chunk->size,
                         chunk->link ? sectionIndex(*table(chunk->link)) : 0u,
                         chunk->info, chunk->alignment, chunk->entrySize});
    uint32_t ownName = addName(".shstrtab");
    headers.push_back(
        {ownName, SHT_STRTAB, 0, 0, image.size(), names.size(), 0, 0, 1, 0});
    image += names;
    image.resize(alignTo(image.size(), 8));

    Elf64_Ehdr header = {};
    std::memcpy(header.e_ident, ElfMagic, 4);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_shoff = image.size();
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = segments.size();
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = headers.size();
    header.e_shstrndx = headers.size() - 1;
    put(0, header);
    std::memcpy(image.data() + sizeof header, segments.data(),
                segments.size() * sizeof(Elf64_Phdr));
    image.append(reinterpret_cast<const char *>(headers.data()),
                 headers.size() * sizeof(Elf64_Shdr));
  }

  const ElfFile &file;
  ArrayRef<std::string> exportNames;
  ArrayRef<InputSection> sections;
  const InputSection *symbolTable = nullptr;
  ArrayRef<InputSymbol> symbols;
  StringRef symbolNames;
  std::vector<Chunk> chunks;       // kept sections, in the input's order
  std::vector<int> chunkOfSection; // -1: not kept
  std::vector<Export> exports;
  size_t buckets = 1;
  SetVector<const InputSymbol *> gotSlots;
  uint64_t relativeCount = 0, nextRelative = 0;
  std::vector<Chunk> tables;
  std::string dynamicNames;
  std::vector<uint32_t> dynamicNameOffsets;
  std::vector<Chunk *> order; // all chunks as they lie in the image
  std::vector<Elf64_Phdr> segments;
  uint64_t fileEnd = 0, relroEnd = 0;
  std::string image;
};

Expected<std::string> link(StringRef object, ArrayRef<std::string> exports) {
  if (exports.empty())
    return makeError("no symbol to export");
  // ELFFile casts into the buffer.
  std::vector<uint64_t> aligned(object.size() / 8 + 1);
  std::memcpy(aligned.data(), object.data(), object.size());
  Expected<ElfFile> file = ElfFile::create(
      StringRef(reinterpret_cast<const char *>(aligned.data()), object.size()));
  if (!file)
    return file.takeError();
  const auto &header = file->getHeader();
  if (!header.checkMagic() || header.getFileClass() != ELFCLASS64 ||
      header.getDataEncoding() != ELFDATA2LSB ||
      header.e_machine != EM_X86_64 || header.e_type != ET_REL)
    return makeError("not a relocatable object for x86-64");
  return Linker(*file, exports).run();
}

} // namespace

Expected<std::string>
flarec::linkShared(StringRef object, ArrayRef<std::string> exportedSymbols) {
  Expected<std::string> result = link(object, exportedSymbols);
  if (!result)
    return makeError("cannot link: " + toString(result.takeError()));
  return result;
}
