// What a mixer's functions take and give: what whoever launches them relies on.
#pragma once

#include "flarec/description.h"

namespace flarec {

/// Throws Error unless the artefact has the functions of this mixer, with their
/// tensors in order: names, sizes and types. An artefact's key does not say so:
/// `flarec compile --from-stage` gives the key of the description to whatever
/// the stage holds.
void checkServes(const Manifest &manifest, const MixerDescription &description);

} // namespace flarec
