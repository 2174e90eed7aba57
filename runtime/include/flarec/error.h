// The one exception that this library throws.
#pragma once

#include <stdexcept>

namespace flarec {

/// What went wrong, in words for the user: what was given, what is allowed and
/// what to do.
class Error : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

} // namespace flarec
