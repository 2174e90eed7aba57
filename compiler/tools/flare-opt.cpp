// flare-opt: runs any pass on a file, for tests and for the curious. All of it lives in libflarec_compiler.so.
#include "flarec/compiler.h"

int main(int argc, char **argv) { return flarec_opt_main(argc, argv); }
