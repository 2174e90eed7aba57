#include "support.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sys/wait.h>
#include <unistd.h>

using namespace flarec;
namespace fs = std::filesystem;

test::TemporaryDirectory::TemporaryDirectory() {
  std::string name = (fs::temp_directory_path() / "flarec-XXXXXX").string();
  if (!mkdtemp(name.data()))
    throw std::runtime_error("mkdtemp failed");
  path = name;
}

test::TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

std::string test::compileC(const std::string &source,
                           const std::string &options) {
  TemporaryDirectory directory;
  fs::path input = directory.path / "k.c", output = directory.path / "k.so";
  writeBytes(input, source);
  std::string command = std::string(FLAREC_TEST_CC) +
                        " -std=c11 -O1 -shared -fPIC " + options + " -o " +
                        output.string() + " " + input.string();
  if (std::system(command.c_str()) != 0)
    throw std::runtime_error("the C compiler failed: " + command);
  return readBytes(output);
}

std::shared_ptr<const Artefact> test::hostArtefact(FunctionSpec function,
                                                   const std::string &source,
                                                   const std::string &key) {
  Manifest manifest;
  manifest.compiler = "test";
  manifest.key = key;
  manifest.target = "host";
  manifest.code = {{.kind = CodeKind::Elf}};
  manifest.functions = {std::move(function)};
  Artefact artefact(manifest, {compileC(source)});
  // Through bytes, so that the parser's checks apply.
  return std::make_shared<const Artefact>(
      Artefact::parse(artefact.serialise()));
}

Artefact test::sampleArtefact(const std::string &key) {
  Manifest manifest;
  manifest.compiler = "test";
  manifest.key = key;
  manifest.target = "sm_90a";
  manifest.code = {{.kind = CodeKind::Ptx}, {.kind = CodeKind::Cubin}};
  FunctionSpec function;
  function.name = "mixer_forward";
  function.tensors = {
      {.name = "q",
       .index = Index::Latents,
       .rows = 128,
       .columns = 8,
       .type = DType::BF16},
      {.name = "k", .columns = 8, .type = DType::BF16},
      {.name = "lse", .role = Role::Result},
      {.name = "grad_q",
       .role = Role::Result,
       .index = Index::Latents,
       .rows = 128,
       .columns = 8,
       .reduced = true},
      {.name = "z_partial",
       .role = Role::Workspace,
       .index = Index::Latents,
       .rows = 128,
       .columns = 8,
       .sweep = 0},
  };
  function.scalars = {{"scale"}};
  function.sweeps = {{.tile = 64, .heads = 8, .rowGroups = 1, .blocks = 264}};
  function.kernels = {
      {.symbol = "f0",
       .grid = Grid::Sweep,
       .threads = 256,
       .shared = 49152,
       .variants = {{"f0", 16, {0, 1}}, {"f0_any", 0, {}}}},
      {.symbol = "f1",
       .grid = Grid::Latents,
       .blocksPerHead = 4,
       .threads = 512,
       .code = 1},
  };
  manifest.functions = {function};
  return Artefact(manifest, {std::string("ptx text\0", 9), "cubin bytes"});
}

int test::inChild(const std::function<int()> &body) {
  std::fflush(nullptr); // or the child would print it again
  pid_t child = fork();
  if (child == 0) {
    int code = 100;
    try {
      code = body();
    } catch (const std::exception &error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    std::fflush(nullptr);
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string test::readBytes(const fs::path &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void test::writeBytes(const fs::path &path, const std::string &bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::vector<fs::path> test::filesIn(const fs::path &directory) {
  std::vector<fs::path> files;
  if (fs::exists(directory))
    for (auto &entry : fs::directory_iterator(directory))
      files.push_back(entry.path());
  return files;
}

std::string test::errorOf(const std::function<void()> &body) {
  try {
    body();
  } catch (const Error &error) {
    return error.what();
  }
  return "(no error)";
}
