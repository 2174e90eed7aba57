// The version that compiler and runtime must share.
#pragma once

namespace flarec {

/// Project version, '+', artefact format. Part of every request and so of every
/// cache key; the compiler must report the same.
const char *version() noexcept;

} // namespace flarec
