// flarec_compile: from a request (docs/artefact.md, section 4) to an artefact's bytes. The C boundary of the compiler.
#include "codegen/Codegen.h"
#include "codegen/Ptxas.h"
#include "driver/Configuration.h"
#include "driver/Examine.h"
#include "driver/Pipeline.h"
#include "driver/Version.h"
#include "flarec/compiler.h"
#include "flare/Flare.h"
#include "passes/Feasible.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/AsmState.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/SourceMgr.h"
#include <chrono>
#include <mutex>
#include <set>

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
std::string mixerSource(int64_t d, int64_t m, StringRef type, bool ragged, bool masked) {
  std::string q = ("!flare.tensor<m=" + llvm::Twine(m) + ", d=" + llvm::Twine(d) + ", " + type + ">").str();
  std::string n = ("!flare.tensor<n, d=" + llvm::Twine(d) + ", " + type + ">").str();
  std::string z = ("!flare.tensor<m=" + llvm::Twine(m) + ", d=" + llvm::Twine(d) + ", f32>").str();
  std::string l = ("!flare.tensor<m=" + llvm::Twine(m) + ", f32>").str();
  std::string presence = std::string(ragged ? ", %range: !flare.tensor<d=2, i32> {flare.name = \"range\"}" : "") +
                         (masked ? ", %mask: !flare.tensor<n, i8> {flare.name = \"mask\"}" : "");
  return "func.func @mixer(%q: " + q + " {flare.name = \"q\"}, %k: " + n + " {flare.name = \"k\"}, %v: " + n + " {flare.name = \"v\"}" + presence +
         ", %scale: f32 {flare.name = \"scale\"}) -> " + n + " {\n" +
         "  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : " + q + ", " + n + ", " + n + " -> " + z + ", " + l + "\n" +
         "  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : " + n + ", " + q + ", " + z + " -> " + n +
         ", !flare.tensor<n, f32>\n  return %y : " + n + "\n}\n";
}

struct Request {
  /// `key` is the hash of the request without the fields that only show or put in (docs/artefact.md, section 4).
  std::string key, source, sourceName, target, config, isa, precision, emit, dump, fromStage;
  std::string wanted; // names of arguments, separated by commas
  std::string only; // kernels of one sweep: function:number
  bool mixer = false, time = false, report = false;
  std::optional<llvm::json::Object> examine; // candidates by function and sweep

  static std::string hash(StringRef text) {
    return llvm::toHex(llvm::SHA256::hash(llvm::ArrayRef((const uint8_t *)text.data(), text.size())), true);
  }

  /// The request as given, byte for byte, unless it has fields beyond those that say what to compile.
  static std::string keyOf(StringRef text, const llvm::json::Object &o) {
    if (llvm::all_of(o, [](auto &field) {
          return llvm::is_contained({"version", "mixer", "source", "gradients", "precision", "target", "config"}, field.first.str());
        }))
      return hash(text);
    std::string plain;
    llvm::raw_string_ostream stream(plain);
    llvm::json::OStream json(stream);
    auto copy = [&](const llvm::json::Object &from, StringRef field) {
      if (auto *value = from.get(field))
        json.attribute(field, *value);
    };
    json.objectBegin();
    copy(o, "version");
    if (auto *m = o.getObject("mixer"))
      json.attributeObject("mixer", [&] {
        for (StringRef field : {"head_dim", "latents", "dtype", "gradients", "ragged", "masked"})
          copy(*m, field);
      });
    for (StringRef field : {"source", "gradients", "precision", "target", "config"})
      copy(o, field);
    json.objectEnd();
    return hash(plain);
  }

  static llvm::Expected<Request> parse(StringRef text) {
    auto json = llvm::json::parse(text);
    if (!json)
      return error("the request is not JSON: " + llvm::toString(json.takeError()));
    auto *o = json->getAsObject();
    if (!o)
      return error("the request must be a JSON object");
    Request r;
    r.key = keyOf(text, *o);
    std::string fault; // the first one
    auto refuse = [&](const llvm::Twine &name, const llvm::json::Value *given, const llvm::Twine &allowed) {
      if (fault.empty())
        fault = (name + (given ? " " + llvm::formatv("{0}", *given).str() + " is not supported" : " is missing") + "; " + allowed).str();
    };
    auto string = [&](const llvm::json::Object &from, StringRef field) -> std::string {
      const llvm::json::Value *value = from.get(field);
      if (value && !value->getAsString())
        refuse("the request's " + field, value, "it must be a string");
      return value ? value->getAsString().value_or("").str() : "";
    };
    auto flag = [&](const llvm::json::Object &from, StringRef field) {
      const llvm::json::Value *value = from.get(field);
      if (value && !value->getAsBoolean())
        refuse("the request's " + field, value, "it must be true or false");
      return value && value->getAsBoolean().value_or(false);
    };
    r.target = string(*o, "target");
    r.config = string(*o, "config");
    r.emit = string(*o, "emit");
    r.dump = string(*o, "dump_stages");
    r.fromStage = string(*o, "from_stage");
    r.sourceName = string(*o, "source_name");
    r.isa = string(*o, "isa");
    r.precision = string(*o, "precision");
    if (r.sourceName.empty())
      r.sourceName = "source";
    r.only = string(*o, "only");
    r.time = flag(*o, "time");
    r.report = flag(*o, "report");
    if (auto *value = o->get("examine")) {
      if (auto *candidates = value->getAsObject())
        r.examine = *candidates;
      else
        refuse("the request's examine", value, "it must be an object: lists of candidates for each sweep of a function, by its name");
    }
    if (!fault.empty())
      return error(fault);
    // It becomes part of a pipeline's text.
    if (!llvm::all_of(r.only, [](char c) { return llvm::isAlnum(c) || StringRef("_.:").contains(c); }))
      return error("only '" + r.only + "' is not supported; name a sweep as function:number, such as mixer_forward:0");
    if (!llvm::is_contained({"", "baseline", "avx2", "avx512"}, r.isa))
      return error("unknown isa '" + r.isa + "'; use baseline, avx2 or avx512, or leave it out for all of them");
    if (!isTarget(r.target))
      return error("unknown target '" + r.target + "'; known are host, sm_80, sm_90a and sm_100a");
    if (auto *precision = o->get("precision"); precision && (r.precision != "tf32" || r.target == "host"))
      return error(llvm::formatv("precision {0} for {1} is not supported; use \"tf32\" for a GPU, or leave it out for f32's own", *precision, r.target).str());
    if (auto *mixer = o->get("mixer")) {
      auto *m = mixer->getAsObject();
      if (!m)
        return error(llvm::formatv("the request's mixer {0} is not supported; it must be an object with head_dim, latents and dtype", *mixer).str());
      int64_t d = m->getInteger("head_dim").value_or(0), latents = m->getInteger("latents").value_or(0);
      auto *wanted = m->get("gradients");
      StringRef type = m->getString("dtype").value_or(""), gradients = m->getString("gradients").value_or("");
      if (d < 1 || d > 128)
        refuse("head dimension", m->get("head_dim"), "use 1 to 128 as head_dim");
      if (latents < 1 || latents > 4096)
        refuse("the number of latents", m->get("latents"), "use 1 to 4096 as latents");
      if (!llvm::is_contained({"bf16", "f16", "f32"}, type))
        refuse("dtype", m->get("dtype"), "use \"bf16\", \"f16\" or \"f32\"");
      if (!r.precision.empty() && type != "f32")
        refuse("precision", o->get("precision"), "it is for dtype \"f32\"; leave it out");
      if (gradients.find_first_not_of("qkv") != StringRef::npos || (wanted && !wanted->getAsString()))
        refuse("gradients", wanted, "use some of \"qkv\"");
      bool ragged = flag(*m, "ragged"), masked = flag(*m, "masked");
      if (!fault.empty())
        return error(fault);
      for (char c : gradients)
        r.wanted += (r.wanted.empty() ? "" : ",") + std::string(1, c);
      r.mixer = true;
      r.source = mixerSource(d, latents, type, ragged, masked);
    } else if (o->get("source")) {
      r.source = string(*o, "source");
      r.wanted = string(*o, "gradients");
      if (!fault.empty())
        return error(fault);
      // It becomes part of a pipeline's text.
      if (!llvm::all_of(r.wanted, [](char c) { return llvm::isAlnum(c) || StringRef("_.*,").contains(c); }))
        return error("gradients '" + r.wanted + "' must be names of arguments, separated by commas, or *");
    } else {
      return error("the request has neither a mixer nor a source");
    }
    return r;
  }
};

struct Compiler {
  Request request;
  std::string emitted; // the stage that was asked for
  std::pair<std::string, std::string> replacement; // of one of LLVM's stages: name and text
  std::vector<std::pair<std::string, double>> times;

  struct Timer {
    Compiler &c;
    std::string name;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    ~Timer() { c.times.push_back({name, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count()}); }
  };

  static std::vector<std::string> stageNames(ArrayRef<Stage> stages, StringRef target) {
    std::vector<std::string> names;
    for (const Stage &s : stages)
      names.push_back(s.name);
    names.push_back("llvm");
    names.push_back(target == "host" ? "asm" : "ptx");
    return names;
  }

  static std::string fileName(StringRef stage) {
    return (stage + (stage == "ptx" ? ".ptx" : stage == "asm" ? ".s" : stage == "llvm" ? ".ll" : ".mlir")).str();
  }

  /// file:line:column: message.
  static void describe(llvm::raw_ostream &out, Diagnostic &d) {
    if (auto at = d.getLocation()->findInstanceOf<FileLineColLoc>())
      out << at.getFilename().getValue() << ":" << at.getLine() << ":" << at.getColumn() << ": ";
    out << d;
    for (Diagnostic &note : d.getNotes())
      describe(out << "\n  note: ", note);
  }

  /// Shows or dumps a stage's text; true if it was the one asked for.
  llvm::Expected<bool> show(unsigned number, StringRef name, llvm::function_ref<std::string()> text) {
    bool wanted = request.emit == name;
    if (!wanted && request.dump.empty())
      return false;
    std::string t = text();
    if (!request.dump.empty()) {
      if (auto ec = llvm::sys::fs::create_directories(request.dump))
        return error("cannot make the folder '" + request.dump + "' for stages: " + ec.message());
      std::string path = request.dump + "/" + std::to_string(number) + "-" + fileName(name);
      std::error_code ec;
      llvm::raw_fd_ostream out(path, ec);
      if (ec)
        return error("cannot write stage '" + path + "': " + ec.message());
      out << t;
      out.close();
      if (out.has_error()) {
        ec = out.error();
        out.clear_error(); // or its destructor ends the process
        return error("cannot write stage '" + path + "': " + ec.message());
      }
    }
    if (wanted)
      emitted = t;
    return wanted;
  }

  llvm::Expected<std::string> run() {
    registerPasses();
    PipelineOptions options{request.target, request.mixer || !request.wanted.empty(), request.wanted, request.precision, request.only};
    std::vector<Stage> stages = pipeline(options);
    std::vector<std::string> names = stageNames(stages, request.target);
    if (!request.emit.empty() && !llvm::is_contained(names, request.emit))
      return error("unknown stage '" + request.emit + "'; for " + request.target + " there are " + llvm::join(names, ", "));
    // A hand-edited stage replaces everything before it; its name is the file's: 3-tile.mlir or tile.mlir. LLVM's stages say
    // nothing of launches, so for those the stages before still run, for the manifest.
    size_t first = 0;
    std::string source = request.source;
    if (!request.fromStage.empty()) {
      auto buffer = llvm::MemoryBuffer::getFile(request.fromStage);
      if (!buffer)
        return error("cannot read stage '" + request.fromStage + "': " + buffer.getError().message());
      auto stage = llvm::find_if(names, [&](StringRef name) { return StringRef(request.fromStage).ends_with(fileName(name)); });
      if (stage == names.end()) {
        std::string endings;
        for (StringRef name : names)
          endings += (endings.empty() ? "" : ", ") + fileName(name);
        return error("'" + request.fromStage + "' does not name a stage of " + request.target + "; its name must end in one of " + endings);
      }
      size_t index = stage - names.begin();
      if (!request.emit.empty() && size_t(llvm::find(names, request.emit) - names.begin()) <= index)
        return error("stage '" + request.emit + "' does not come after the stage that '" + request.fromStage + "' is put in for");
      if (index < stages.size()) {
        first = index + 1;
        source = (*buffer)->getBuffer().str();
        request.sourceName = request.fromStage;
      } else if (request.source.empty()) {
        return error("'" + request.fromStage + "' replaces a stage of a whole compilation: give the mixer's description, or the source, too");
      } else {
        replacement = {*stage, (*buffer)->getBuffer().str()};
      }
    }
    if (!request.config.empty() && first > 2)
      return error("a configuration has no effect on a " + stages[first - 1].name + " stage; give it with an earlier one");
    // Threads of the caller's own run compiles; MLIR starts none (design.md trap 18).
    MLIRContext context(registry());
    context.loadAllAvailableDialects();
    context.printOpOnDiagnostic(false); // an op may hold a whole kernel
    std::string diagnostics;
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &d) {
      llvm::raw_string_ostream s(diagnostics);
      if (d.getSeverity() == DiagnosticSeverity::Error)
        describe(s << (diagnostics.empty() ? "" : "\n"), d);
      return success();
    });
    auto failure = [&](const llvm::Twine &what) { return error(what + (diagnostics.empty() ? "" : ":\n" + diagnostics)); };

    OwningOpRef<ModuleOp> module;
    {
      Timer t{*this, "parse"};
      ParserConfig config(&context);
      module = parseSourceString<ModuleOp>(source, config, request.sourceName);
    }
    if (!module)
      return failure("cannot parse " + request.sourceName);
    if (first == 0 && module->getOps<func::FuncOp>().empty())
      return error(request.sourceName + " holds no function; write a func.func on !flare.tensor types, as docs/architecture.md shows");
    for (size_t i = first; i < stages.size(); ++i) {
      Timer t{*this, stages[i].name};
      PassManager pm(&context, ModuleOp::getOperationName());
      std::string messages;
      llvm::raw_string_ostream stream(messages);
      if (failed(parsePassPipeline(stages[i].passes, pm, stream)))
        return error("cannot parse the pipeline of stage " + stages[i].name + ": " + messages);
      // A configuration that is given goes over the heuristic's, or over that of a file in the stage's place.
      auto choose = [&]() -> llvm::Error { return request.config.empty() ? llvm::Error::success() : configure(*module, request.config); };
      if (stages[i].name == "tile" && i == first)
        if (auto e = choose())
          return failure(llvm::toString(std::move(e)));
      if (stages[i].name == "tile" && request.examine)
        return examine(*module, *request.examine, request.target);
      if (failed(pm.run(*module)))
        return failure("stage " + stages[i].name + " failed");
      if (stages[i].name == "sweeps")
        if (auto e = choose())
          return failure(llvm::toString(std::move(e)));
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
      return error(request.sourceName + " holds no flare function");
    std::string functions = manifest.str();
    (*module)->removeAttr("flarec.manifest");
    return generate(*module, functions, stages.size());
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
    if (replacement.first == "llvm") {
      llvm::SMDiagnostic problem;
      llvmModule = llvm::parseAssemblyString(replacement.second, problem, llvmContext);
      if (!llvmModule) {
        std::string message;
        llvm::raw_string_ostream stream(message);
        problem.print(nullptr, stream, /*ShowColors=*/false);
        return error("cannot parse " + request.fromStage + ":\n" + StringRef(message).ltrim(": ").rtrim());
      }
      std::string message;
      llvm::raw_string_ostream stream(message);
      if (llvm::verifyModule(*llvmModule, &stream))
        return error(request.fromStage + " is not valid LLVM IR:\n" + StringRef(message).rtrim());
    } else if (replacement.first == "asm") {
      return error("a host library is not assembled from text: edit the llvm stage and put that in");
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
      return error("flarec.manifest of the module is not JSON: " + llvm::toString(json.takeError()));
    auto *described = json->getAsArray();
    if (!described || described->empty() || !llvm::all_of(*described, [](const llvm::json::Value &f) { return f.getAsObject(); }))
      return error("flarec.manifest of the module must be a list of at least one function's description, as --dump-stages writes it");
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
      // One text where somebody wants to see it or has written it, otherwise a blob a kernel: they are made and loaded in parallel.
      if (request.emit.empty() && request.dump.empty() && !request.report && replacement.first != "ptx") {
        Timer t{*this, "ptx"};
        auto kernels = emitPtxByKernel(*llvmModule, *gpu);
        if (!kernels)
          return kernels.takeError();
        std::map<std::string, int64_t> blobOf;
        for (KernelPtx &k : *kernels) {
          times.push_back({"  of it " + k.name + ", in parallel", k.milliseconds});
          blobOf[k.name] = int64_t(code.size());
          addBlob(k.ptx + '\0', llvm::json::Object{{"kind", "ptx"}});
        }
        if (auto e = pointAtBlobs(*json, blobOf))
          return std::move(e);
      } else {
        std::string ptx = replacement.second;
        if (replacement.first != "ptx") {
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
        for (llvm::json::Object *kernel : kernelsOf(*json))
          if (auto symbol = kernel->getString("symbol"); !symbol || !StringRef(ptx).contains((".entry " + *symbol + "(").str()))
            return error("the PTX has no entry '" + symbol.value_or("") + "', which the manifest names; names in an edited stage must agree");
        std::vector<std::string> entries;
        llvm::SmallVector<StringRef> parts;
        StringRef(ptx).split(parts, ".entry ");
        for (StringRef part : llvm::drop_begin(parts))
          entries.push_back(part.take_until([](char c) { return c == '(' || isspace(c); }).str());
        if (auto e = namesAll(*json, entries))
          return std::move(e);
        if (request.report)
          if (auto e = report(ptx))
            return std::move(e);
        addBlob(ptx + '\0', llvm::json::Object{{"kind", "ptx"}});
      }
    } else {
      llvm::SmallVector<std::string> symbols;
      for (llvm::Function &f : *llvmModule)
        if (!f.isDeclaration() && f.hasExternalLinkage())
          symbols.push_back(f.getName().str());
      auto assembly = [&]() -> std::string {
        auto a = emitHostAssembly(*llvmModule, HostIsa::Avx512);
        return a ? std::move(*a) : "; " + llvm::toString(a.takeError());
      };
      auto shown = show(number + 2, "asm", assembly);
      if (!shown)
        return shown.takeError();
      if (*shown)
        return emitted;
      auto libraries = [&] {
        Timer t{*this, "machine code"};
        return emitHostLibraries(*llvmModule, symbols, request.isa);
      }();
      if (!libraries)
        return libraries.takeError();
      for (HostLibrary &l : *libraries) {
        times.push_back({("  of it " + l.name + ", in parallel").str(), l.milliseconds});
        if (request.report)
          fprintf(stderr, "%-8s %8zu bytes of machine code and tables\n", l.name.data(), l.bytes.size());
        addBlob(std::move(l.bytes), llvm::json::Object{{"kind", "elf"}, {"isa", l.name}});
      }
    }
    llvm::json::Object manifest{{"format", 1}, {"compiler", "flarec " + std::string(flarecVersion()) + ", LLVM " + LLVM_VERSION_STRING},
                                {"key", request.key}, {"target", request.target}, {"code", std::move(code)}, {"functions", std::move(*json)}};
    std::string text;
    llvm::raw_string_ostream(text) << llvm::json::Value(std::move(manifest));
    return pack(text, blobs);
  }

  /// Gives each kernel and variant of the manifest's functions the number of the blob that holds it.
  /// Every kernel's code, its variants' too, is the blob that has its symbol.
  static llvm::Error pointAtBlobs(llvm::json::Value &functions, const std::map<std::string, int64_t> &blobOf) {
    for (llvm::json::Object *kernel : kernelsOf(functions)) {
      auto symbol = kernel->getString("symbol");
      auto blob = symbol ? blobOf.find(symbol->str()) : blobOf.end();
      if (blob == blobOf.end())
        return error("the manifest (flarec.manifest of the module) names the kernel '" + symbol.value_or("") +
                     "', but the code has none of that name; names in an edited stage must agree");
      (*kernel)["code"] = blob->second;
    }
    return namesAll(functions, llvm::map_range(blobOf, [](auto &blob) { return blob.first; }));
  }

  /// All kernels of a function take the same slots, so one that the manifest lacks tells that they are another function's.
  template <typename Range> static llvm::Error namesAll(llvm::json::Value &functions, Range &&entries) {
    std::set<std::string> named;
    for (llvm::json::Object *kernel : kernelsOf(functions))
      named.insert(kernel->getString("symbol").value_or("").str());
    for (const std::string &entry : entries)
      if (!named.count(entry))
        return error("the code has the kernel '" + entry + "', which the manifest does not name; a stage made with a configuration is put back with the same one");
    return llvm::Error::success();
  }

  /// Everything in the manifest that is a kernel's symbol: kernels and their variants. Empty where it is no manifest.
  static std::vector<llvm::json::Object *> kernelsOf(llvm::json::Value &functions) {
    std::vector<llvm::json::Object *> found;
    auto objects = [](llvm::json::Array *array) {
      std::vector<llvm::json::Object *> r;
      if (array)
        for (llvm::json::Value &v : *array)
          if (auto *o = v.getAsObject())
            r.push_back(o);
      return r;
    };
    for (llvm::json::Object *f : objects(functions.getAsArray()))
      for (llvm::json::Object *k : objects(f->getArray("kernels"))) {
        found.push_back(k);
        for (llvm::json::Object *v : objects(k->getArray("variants")))
          found.push_back(v);
      }
    return found;
  }

  /// What the assembler makes of the kernels.
  llvm::Error report(StringRef ptx) {
    if (!findPtxas()) {
      if (const char *given = std::getenv("FLAREC_PTXAS"); given && *given)
        fprintf(stderr, "report: FLAREC_PTXAS is '%s', which is neither ptxas nor a site-packages folder with it\n", given);
      else
        fprintf(stderr, "report: there is no ptxas on PATH; `pip install nvidia-cuda-nvcc` has one, and FLAREC_PTXAS may name it or the site-packages\n");
      return llvm::Error::success();
    }
    Timer t{*this, "ptxas"};
    auto assembled = assemble(ptx, request.target);
    if (!assembled)
      return assembled.takeError();
    fprintf(stderr, "%-40s %9s %12s %12s %12s\n", "kernel", "registers", "spill bytes", "stack bytes", "barriers");
    for (const KernelReport &k : assembled->kernels)
      fprintf(stderr, "%-40s %9u %12u %12u %12u\n", k.name.c_str(), k.registers, k.spillStoreBytes + k.spillLoadBytes, k.stackFrameBytes, k.barriers);
    for (const std::string &w : assembled->warnings)
      fprintf(stderr, "%s\n", w.c_str());
    return llvm::Error::success();
  }

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

int flarec_compile(const char *text, char **bytes, size_t *size, char **message) {
  *bytes = nullptr;
  *size = 0;
  *message = nullptr;
  auto request = Request::parse(text);
  if (!request) {
    *message = copy(llvm::toString(request.takeError()));
    return 1;
  }
  Compiler compiler{*request, {}, {}, {}};
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

void flarec_free(void *p) { free(p); }
const char *flarec_version(void) { return flarecVersion(); }

char *flarec_stages(const char *target, const char *gradients) {
  if (!isTarget(target))
    return nullptr;
  std::vector<Stage> stages = pipeline({target, gradients != nullptr, gradients ? gradients : "", "", ""});
  std::vector<std::string> names = Compiler::stageNames(stages, target);
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += names[i] + "\t" + (i < stages.size() ? stages[i].passes : "") + "\n";
  return copy(text);
}

int flarec_assemble(const char *ptx, const char *target, char **report, char **cubin, size_t *size, char **message) {
  *report = *cubin = *message = nullptr;
  *size = 0;
  if (!findPtxas()) {
    *message = copy("there is no ptxas on PATH or in $FLAREC_PTXAS");
    return 2;
  }
  auto assembled = assemble(ptx, target);
  if (!assembled) {
    *message = copy(llvm::toString(assembled.takeError()));
    return 1;
  }
  llvm::json::Array kernels, warnings;
  for (const KernelReport &k : assembled->kernels)
    kernels.push_back(llvm::json::Object{{"name", k.name}, {"registers", k.registers}, {"spills", k.spillStoreBytes + k.spillLoadBytes},
                                         {"stack", k.stackFrameBytes}, {"barriers", k.barriers}});
  for (const std::string &w : assembled->warnings)
    warnings.push_back(w);
  std::string text;
  llvm::raw_string_ostream(text) << llvm::json::Value(llvm::json::Object{{"kernels", std::move(kernels)}, {"warnings", std::move(warnings)}});
  *report = copy(text);
  *cubin = copy(assembled->cubin);
  *size = assembled->cubin.size();
  return 0;
}

int flarec_opt_main(int argc, char **argv) {
  registerPasses();
  return failed(MlirOptMain(argc, argv, "flarec's pass driver\n", registry()));
}
