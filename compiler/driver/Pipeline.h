// The compiler's stages: each a name and the text of the passes that lead to it.
#pragma once
#include <string>
#include <vector>

namespace flarec {

struct Stage {
  std::string name;   // flare, sweeps, tile, nvvm
  std::string passes; // a textual pipeline
};

struct PipelineOptions {
  std::string target = "sm_90a";
  bool differentiate = false;
  std::string wanted; // names of arguments, separated by commas
  std::string precision; // of f32 products on a GPU: "tf32", or empty for f32's
  std::string only; // kernels of one sweep, "function:number"; empty for all
};

/// The stages that are MLIR. What follows (llvm, then ptx or asm) is LLVM's.
std::vector<Stage> pipeline(const PipelineOptions &options);

/// All of it as one text for flare-opt --pass-pipeline.
std::string pipelineText(const PipelineOptions &options);

} // namespace flarec
