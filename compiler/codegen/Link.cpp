//===- Link.cpp - Relocatable object to shared library, in process ----------===//

#include "Codegen.h"
#include "Guard.h"
#include "Scratch.h"

#include "lld/Common/CommonLinkerContext.h"
#include "lld/Common/Driver.h"
#include "llvm/Object/ELFObjectFile.h"
#include "llvm/Support/raw_ostream.h"
#include <mutex>

LLD_HAS_DRIVER(elf)

using namespace llvm;
using flarec::detail::makeError;
using flarec::detail::ScratchFile;

/// lld calls exit on a file it cannot parse, so look at it first.
static Error checkObject(StringRef bytes) {
  Expected<std::unique_ptr<object::ObjectFile>> file =
      object::ObjectFile::createELFObjectFile(MemoryBufferRef(bytes, "object"));
  if (!file)
    return file.takeError();
  auto *elf = dyn_cast<object::ELF64LEObjectFile>(file->get());
  if (!elf || elf->getELFFile().getHeader().e_machine != ELF::EM_X86_64 ||
      elf->getELFFile().getHeader().e_type != ELF::ET_REL)
    return makeError("not a relocatable object for x86-64");
  auto sections = elf->getELFFile().sections();
  if (!sections)
    return sections.takeError();
  for (const auto &section : *sections) {
    if (Expected<StringRef> name = elf->getELFFile().getSectionName(section);
        !name)
      return name.takeError();
    if (section.sh_type == ELF::SHT_NOBITS)
      continue;
    if (auto contents = elf->getELFFile().getSectionContents(section);
        !contents)
      return contents.takeError();
  }
  for (const object::SymbolRef &symbol : elf->symbols())
    if (Expected<StringRef> name = symbol.getName(); !name)
      return name.takeError();
  return Error::success();
}

Expected<std::string>
flarec::linkShared(StringRef object, ArrayRef<std::string> exportedSymbols) {
  if (Error error = checkObject(object))
    return makeError("cannot link: " + toString(std::move(error)));
  if (exportedSymbols.empty())
    return makeError("cannot link: no symbol to export");

  std::string versions = "{ global:";
  for (const std::string &symbol : exportedSymbols)
    versions += " \"" + symbol + "\";";
  versions += " local: *; };\n";

  Expected<ScratchFile> input = ScratchFile::create(object);
  if (!input)
    return input.takeError();
  Expected<ScratchFile> script = ScratchFile::create(versions);
  if (!script)
    return script.takeError();
  Expected<ScratchFile> output = ScratchFile::create("", ScratchFile::Kind::OnDisk);
  if (!output)
    return output.takeError();

  std::string scriptOption = "--version-script=" + script->path();
  const char *arguments[] = {
      "ld.lld", "-m", "elf_x86_64", "-shared", "-z", "defs", "-z", "relro",
      "-z", "now", "-z", "noexecstack", "--hash-style=gnu", "--build-id=none",
      "--gc-sections", "--no-undefined-version", "-Bsymbolic", "-O1",
      "--error-limit=0",      // else lld exits after 20 errors
      "--threads=1",          // no thread pool that a fork would break
      "--no-mmap-output-file", // a mapped one installs signal handlers
      "--color-diagnostics=never", scriptOption.c_str(), "-o",
      output->path().c_str(), input->path().c_str()};

  std::string messages;
  raw_string_ostream os(messages);
  bool linked;
  {
    // lld's state is global.
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    linked = lld::elf::link(arguments, os, os, /*exitEarly=*/false,
                            /*disableOutput=*/false);
    lld::CommonLinkerContext::destroy();
  }
  if (!linked)
    return makeError("cannot link: " + StringRef(messages).rtrim());
  return output->read();
}
