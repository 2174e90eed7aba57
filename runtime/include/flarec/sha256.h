// SHA-256 (FIPS 180-4): the checksum of artefacts and the name of cache
// entries. Our own, since the runtime must not depend on a cryptography library
// for forty lines.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace flarec {

using Sha256 = std::array<uint8_t, 32>;

Sha256 sha256(std::string_view bytes);

/// The same as 64 lower-case hexadecimal digits.
std::string sha256Hex(std::string_view bytes);

} // namespace flarec
