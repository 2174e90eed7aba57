#include "flarec/version.h"

const char *flarec::version() noexcept { return FLAREC_VERSION; }
