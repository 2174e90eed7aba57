// flarec_compile: from a request (docs/artefact.md, section 4) to an artefact's bytes. The C boundary of the compiler.
#include "codegen/Codegen.h"
#include "codegen/Ptxas.h"
#include "driver/Pipeline.h"
#include "driver/Version.h"
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/AsmState.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SHA256.h"
#include <chrono>
#include <mutex>

using namespace mlir;
using namespace flarec;

namespace {

void registerPasses() {
  static std::once_flag once;
  std::call_once(once, [] {
    registerFlarecPasses();
    registerTransformsPasses();
    registerSCFToControlFlowPass();
    registerConvertControlFlowToLLVMPass();
    registerArithToLLVMConversionPass();
    registerReconcileUnrealizedCastsPass();
    initialiseTargets();
  });
}

DialectRegistry &registry() {
  static DialectRegistry r = [] {
    DialectRegistry r;
    r.insert<flare::FlareDialect, tile::TileDialect, arith::ArithDialect, func::FuncDialect, scf::SCFDialect, cf::ControlFlowDialect,
             LLVM::LLVMDialect>();
    return r;
  }();
  return r;
}

llvm::Error error(const llvm::Twine &t) { return llvm::createStringError(t.str()); }

/// The mixer's source for a description.
std::string mixerSource(int64_t d, int64_t m, StringRef type) {
  std::string q = ("!flare.tensor<m=" + llvm::Twine(m) + ", d=" + llvm::Twine(d) + ", " + type + ">").str();
  std::string n = ("!flare.tensor<n, d=" + llvm::Twine(d) + ", " + type + ">").str();
  std::string z = ("!flare.tensor<m=" + llvm::Twine(m) + ", d=" + llvm::Twine(d) + ", f32>").str();
  std::string l = ("!flare.tensor<m=" + llvm::Twine(m) + ", f32>").str();
  return "func.func @mixer(%q: " + q + " {flare.name = \"q\"}, %k: " + n + " {flare.name = \"k\"}, %v: " + n +
         " {flare.name = \"v\"}, %scale: f32 {flare.name = \"scale\"}) -> " + n + " {\n" +
         "  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : " + q + ", " + n + ", " + n + " -> " + z + ", " + l + "\n" +
         "  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : " + n + ", " + q + ", " + z + " -> " + n +
         ", !flare.tensor<n, f32>\n  return %y : " + n + "\n}\n";
}

struct Request {
  std::string text, source, target, config, emit, dump, fromStage, gradients;
  bool mixer = false, time = false, report = false;

  static llvm::Expected<Request> parse(StringRef text) {
    auto json = llvm::json::parse(text);
    if (!json)
      return error("the request is not JSON: " + llvm::toString(json.takeError()));
    auto *o = json->getAsObject();
    if (!o)
      return error("the request must be a JSON object");
    Request r;
    r.text = text.str();
    auto string = [&](StringRef key) { return o->getString(key).value_or("").str(); };
    r.target = string("target");
    r.config = string("config");
    r.emit = string("emit");
    r.dump = string("dump_stages");
    r.fromStage = string("from_stage");
    r.time = o->getBoolean("time").value_or(false);
    r.report = o->getBoolean("report").value_or(false);
    if (!llvm::is_contained({"host", "sm_80", "sm_90a", "sm_100a"}, r.target))
      return error("unknown target '" + r.target + "'; known are host, sm_80, sm_90a and sm_100a");
    if (auto *m = o->getObject("mixer")) {
      int64_t d = m->getInteger("head_dim").value_or(0), latents = m->getInteger("latents").value_or(0);
      StringRef type = m->getString("dtype").value_or("");
      r.gradients = m->getString("gradients").value_or("").str();
      if (!llvm::is_contained({4, 8, 16, 32}, d))
        return error("head dimension " + llvm::Twine(d) + " is not supported; use 4, 8, 16 or 32");
      if (latents < 1 || latents > 512)
        return error(llvm::Twine(latents) + " latents are not supported; use 1 to 512");
      if (type != "bf16" && type != "f32")
        return error("dtype '" + type + "' is not supported; use bf16 or f32");
      if (StringRef(r.gradients).find_first_not_of("qkv") != StringRef::npos)
        return error("gradients '" + r.gradients + "' must be a subset of qkv");
      r.mixer = true;
      r.source = mixerSource(d, latents, type);
    } else if (auto s = o->getString("source")) {
      r.source = s->str();
      r.gradients = string("gradients");
    } else {
      return error("the request has neither a mixer nor a source");
    }
    return r;
  }
};

struct Compiler {
  Request request;
  std::string emitted; // the stage that was asked for
  std::vector<std::pair<std::string, double>> times;

  struct Timer {
    Compiler &c;
    std::string name;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    ~Timer() { c.times.push_back({name, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count()}); }
  };

  /// Shows or dumps a stage's text; true if it was the one asked for.
  llvm::Expected<bool> show(unsigned number, StringRef name, llvm::function_ref<std::string()> text) {
    bool wanted = request.emit == name;
    if (!wanted && request.dump.empty())
      return false;
    std::string t = text();
    if (!request.dump.empty()) {
      if (auto ec = llvm::sys::fs::create_directories(request.dump))
        return error("cannot make the folder '" + request.dump + "' for stages: " + ec.message());
      std::string path = request.dump + "/" + std::to_string(number) + "-" + name.str() + (name == "ptx" || name == "asm" ? "." : name == "llvm" ? ".ll" : ".mlir");
      if (name == "ptx")
        path += "ptx";
      else if (name == "asm")
        path += "s";
      std::error_code ec;
      llvm::raw_fd_ostream out(path, ec);
      if (ec)
        return error("cannot write stage '" + path + "': " + ec.message());
      out << t;
    }
    if (wanted)
      emitted = t;
    return wanted;
  }

  llvm::Expected<std::string> run() {
    registerPasses();
    // Threads of the caller's own run compiles; MLIR starts none (design.md trap 18).
    MLIRContext context(registry(), MLIRContext::Threading::DISABLED);
    context.loadAllAvailableDialects();
    std::string diagnostics;
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &d) {
      llvm::raw_string_ostream s(diagnostics);
      if (d.getSeverity() == DiagnosticSeverity::Error)
        s << (diagnostics.empty() ? "" : "\n") << d.getLocation() << ": " << d;
      return success();
    });
    auto failure = [&](const llvm::Twine &what) { return error(what + (diagnostics.empty() ? "" : ": " + diagnostics)); };

    PipelineOptions options{request.target, request.mixer || !request.gradients.empty(), ""};
    for (char c : request.gradients)
      options.wanted += (options.wanted.empty() ? "" : ",") + std::string(1, c);
    std::vector<Stage> stages = pipeline(options);
    // A hand-edited stage replaces everything before it; its name is the file's: 3-tile.mlir or tile.mlir.
    size_t first = 0;
    std::string source = request.source;
    if (!request.fromStage.empty()) {
      auto buffer = llvm::MemoryBuffer::getFile(request.fromStage);
      if (!buffer)
        return error("cannot read stage '" + request.fromStage + "': " + buffer.getError().message());
      source = (*buffer)->getBuffer().str();
      bool known = false;
      for (size_t i = 0; i < stages.size(); ++i)
        if (StringRef(request.fromStage).contains(stages[i].name + ".mlir")) {
          first = i + 1;
          known = true;
        }
      if (!known)
        return error("'" + request.fromStage + "' does not name a stage; the file must end in flare.mlir, sweeps.mlir, tile.mlir or nvvm.mlir");
    }
    OwningOpRef<ModuleOp> module;
    {
      Timer t{*this, "parse"};
      ParserConfig config(&context);
      module = parseSourceString<ModuleOp>(source, config, "source");
    }
    if (!module)
      return failure("cannot parse the source");
    for (size_t i = first; i < stages.size(); ++i) {
      Timer t{*this, stages[i].name};
      PassManager pm(&context, ModuleOp::getOperationName());
      std::string messages;
      llvm::raw_string_ostream stream(messages);
      if (failed(parsePassPipeline(stages[i].passes, pm, stream)))
        return error("cannot parse the pipeline of stage " + stages[i].name + ": " + messages);
      if (stages[i].name == "tile" && !request.config.empty())
        if (auto e = configure(*module))
          return std::move(e);
      if (failed(pm.run(*module)))
        return failure("stage " + stages[i].name + " failed");
      auto done = show(i + 1, stages[i].name, [&] {
        std::string s;
        llvm::raw_string_ostream out(s);
        module->print(out);
        return s;
      });
      if (!done)
        return done.takeError();
      if (*done)
        return emitted;
    }
    auto manifest = (*module)->getAttrOfType<StringAttr>("flarec.manifest");
    if (!manifest)
      return error("the source holds no flare function");
    std::string functions = manifest.str();
    (*module)->removeAttr("flarec.manifest");
    return generate(*module, functions, stages.size());
  }

  /// A configuration given as text goes on every sweep.
  llvm::Error configure(ModuleOp module) {
    Attribute a = parseAttribute(request.config, module.getContext());
    auto config = dyn_cast_or_null<tile::ConfigAttr>(a);
    if (!config)
      return error("cannot read the configuration '" + request.config + "'; it must be a #tile.config<…>, as --emit sweeps prints it");
    llvm::Error e = llvm::Error::success();
    module.walk([&](flare::SweepOp sweep) {
      auto old = cast<tile::ConfigAttr>(sweep.getConfigAttr());
      if (old.getRows() == config.getRows())
        sweep.setConfigAttr(config);
    });
    return e;
  }

  llvm::Expected<std::string> generate(ModuleOp module, StringRef functions, unsigned number) {
    llvm::LLVMContext llvmContext;
    std::unique_ptr<llvm::Module> llvmModule;
    {
      Timer t{*this, "llvm"};
      auto m = translateToLLVMIR(module, llvmContext);
      if (!m)
        return m.takeError();
      llvmModule = std::move(*m);
    }
    auto done = show(number + 1, "llvm", [&] {
      std::string s;
      llvm::raw_string_ostream out(s);
      llvmModule->print(out, nullptr);
      return s;
    });
    if (!done)
      return done.takeError();
    if (*done)
      return emitted;
    auto json = llvm::json::parse(functions);
    if (!json)
      return json.takeError();
    llvm::json::Array code;
    std::string blobs;
    auto addBlob = [&](std::string bytes, llvm::json::Object o) {
      o["offset"] = int64_t(blobs.size());
      o["size"] = int64_t(bytes.size());
      blobs += bytes;
      code.push_back(std::move(o));
    };
    if (request.target != "host") {
      auto gpu = findGpuTarget(request.target);
      if (!gpu)
        return gpu.takeError();
      std::string ptx;
      {
        Timer t{*this, "ptx"};
        auto p = emitPtx(*llvmModule, *gpu);
        if (!p)
          return p.takeError();
        ptx = std::move(*p);
      }
      auto shown = show(number + 2, "ptx", [&] { return ptx; });
      if (!shown)
        return shown.takeError();
      if (*shown)
        return emitted;
      addBlob(ptx + '\0', llvm::json::Object{{"kind", "ptx"}});
    } else {
      llvm::SmallVector<std::string> symbols;
      for (llvm::Function &f : *llvmModule)
        if (!f.isDeclaration() && f.hasExternalLinkage())
          symbols.push_back(f.getName().str());
      for (auto [isa, name] : {std::pair(HostIsa::Avx512, "avx512"), std::pair(HostIsa::Avx2, "avx2"), std::pair(HostIsa::Baseline, "baseline")}) {
        Timer t{*this, name};
        if (isa == HostIsa::Avx512) {
          auto assembly = [&]() -> std::string {
            auto a = emitHostAssembly(*llvmModule, isa);
            if (a)
              return std::move(*a);
            return "; " + llvm::toString(a.takeError());
          };
          auto shown = show(number + 2, "asm", assembly);
          if (!shown)
            return shown.takeError();
          if (*shown)
            return emitted;
        }
        auto object = emitHostObject(*llvmModule, isa);
        if (!object)
          return object.takeError();
        auto library = linkShared(*object, symbols);
        if (!library)
          return library.takeError();
        addBlob(std::move(*library), llvm::json::Object{{"kind", "elf"}, {"isa", name}});
      }
    }
    if (!request.emit.empty())
      return error("unknown stage '" + request.emit + "'; known are flare, sweeps, tile, nvvm, llvm and ptx (host: vectors and asm)");
    llvm::json::Object manifest{{"format", 1}, {"compiler", "flarec " + std::string(flarecVersion()) + ", LLVM " + LLVM_VERSION_STRING},
                                {"key", hex(llvm::SHA256::hash(llvm::ArrayRef((const uint8_t *)request.text.data(), request.text.size())))},
                                {"target", request.target}, {"code", std::move(code)}, {"functions", std::move(*json)}};
    std::string text;
    llvm::raw_string_ostream(text) << llvm::json::Value(std::move(manifest));
    return pack(text, blobs);
  }

  static std::string hex(const std::array<uint8_t, 32> &h) { return llvm::toHex(h, true); }

  static std::string pack(StringRef manifest, StringRef blobs) {
    std::string payload(8, '\0');
    uint64_t size = manifest.size();
    memcpy(payload.data(), &size, 8);
    payload += manifest;
    payload += blobs;
    auto hash = llvm::SHA256::hash(llvm::ArrayRef((const uint8_t *)payload.data(), payload.size()));
    return std::string("FLAREC\0\1", 8) + std::string((const char *)hash.data(), 32) + payload;
  }
};

char *copy(StringRef s) {
  char *p = static_cast<char *>(malloc(s.size() + 1));
  if (p) {
    memcpy(p, s.data(), s.size());
    p[s.size()] = 0;
  }
  return p;
}

} // namespace

extern "C" __attribute__((visibility("default"))) int flarec_compile(const char *text, char **bytes, size_t *size, char **message) {
  *bytes = nullptr;
  *size = 0;
  *message = nullptr;
  auto request = Request::parse(text);
  if (!request) {
    *message = copy(llvm::toString(request.takeError()));
    return 1;
  }
  Compiler compiler{*request, {}, {}};
  auto start = std::chrono::steady_clock::now();
  auto result = compiler.run();
  if (request->time) {
    double total = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    for (auto &[name, ms] : compiler.times)
      fprintf(stderr, "%10.1f ms  %s\n", ms, name.c_str());
    fprintf(stderr, "%10.1f ms  in all\n", total);
  }
  if (!result) {
    *message = copy(llvm::toString(result.takeError()));
    return 1;
  }
  *bytes = copy(*result);
  *size = result->size();
  return 0;
}

extern "C" __attribute__((visibility("default"))) void flarec_free(void *p) { free(p); }
extern "C" __attribute__((visibility("default"))) const char *flarec_version(void) { return flarecVersion(); }

extern "C" __attribute__((visibility("default"))) int flarec_opt_main(int argc, char **argv) {
  registerPasses();
  return failed(MlirOptMain(argc, argv, "flarec's pass driver\n", registry()));
}
