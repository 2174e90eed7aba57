// The pipeline as text.
#include "driver/Pipeline.h"

using namespace flarec;

std::vector<Stage> flarec::pipeline(const PipelineOptions &o) {
  std::string target = "{target=" + o.target + "}";
  bool host = o.target == "host";
  std::string flare = o.differentiate ? "flare-differentiate{wanted=" + o.wanted + "}," : "";
  std::string precision = o.precision.empty() ? "" : " precision=" + o.precision;
  std::string only = o.only.empty() ? "" : "only=" + o.only;
  std::string lower = host ? "tile-to-host" + (only.empty() ? "" : "{" + only + "}") : "tile-to-nvvm{target=" + o.target + precision + (only.empty() ? "" : " " + only) + "}";
  return {
      {"flare", flare + "flare-expand,flare-to-base-2,flare-simplify"},
      // f32 exponentials are exact enough to be shared on the host, not on a GPU.
      {"sweeps", "flare-plan-sweeps" + target + ",flare-share-exponentials{wide=" + (host ? "true" : "false") + "},flare-configure" + target},
      {"tile", "flare-to-tile" + target + ",tile-assign-layouts" + target + ",tile-park,cse"},
      // Kernel by kernel, which the pass manager does in parallel.
      {host ? "vectors" : "nvvm", lower + ",llvm.func(cse,canonicalize,convert-scf-to-cf),convert-cf-to-llvm,"
                                          "llvm.func(convert-arith-to-llvm,reconcile-unrealized-casts)"},
  };
}

std::string flarec::pipelineText(const PipelineOptions &o) {
  std::string text;
  for (const Stage &s : pipeline(o))
    text += (text.empty() ? "" : ",") + s.passes;
  return "builtin.module(" + text + ")";
}
