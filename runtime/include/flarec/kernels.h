// The front door: from a description to loaded kernels.
#pragma once

#include "flarec/description.h"
#include "flarec/function.h"

namespace flarec {

/// Kernels for a description: from memory, else the disk cache, else the
/// compiler. After the first call for a description this is one look-up. The
/// modules stay for the life of the process.
std::shared_ptr<Module> kernelsFor(const MixerDescription &description);

/// The same for the text of any request.
std::shared_ptr<Module> kernelsFor(const std::string &request);

/// Makes the kernels of an artefact file known, so that a description that it
/// was compiled for finds them without a compiler.
void addArtefact(const std::filesystem::path &path);

} // namespace flarec
