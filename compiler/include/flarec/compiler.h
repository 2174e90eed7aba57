/* The compiler's C interface, all that libflarec_compiler.so exports. The
 * request and the artefact are described in docs/artefact.md. Nothing is thrown
 * across this boundary, and any number of threads may call at once.
 *
 *   char *bytes, *error;
 *   size_t size;
 *   if (flarec_compile(request, &bytes, &size, &error))
 *     fprintf(stderr, "%s\n", error);
 *   else
 *     fwrite(bytes, 1, size, file);
 *   flarec_free(bytes);
 *   flarec_free(error);
 */
#ifndef FLAREC_COMPILER_H
#define FLAREC_COMPILER_H

#include <stddef.h>

#if defined(__GNUC__)
#define FLAREC_EXPORT __attribute__((visibility("default")))
#else
#define FLAREC_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Compiles a request (JSON, zero-terminated). Returns 0 and an artefact in
 * *bytes and *size; otherwise a message in *error. What is not given is set to
 * null. The caller frees both with flarec_free.
 *
 * Beside the fields of section 4 a request may have these. They change what is
 * shown or put in, and never the artefact's key:
 *   emit         a stage's name: *bytes is that stage's text, not an artefact
 *   dump_stages  a folder: each stage is written there under its name
 *   from_stage   a stage's file, perhaps edited by hand: it takes that stage's
 *                place
 *   source_name  what messages call the source
 *   time         true: where the time went, on stderr
 *   report       true: registers and spills of each kernel, on stderr
 *   only         "function:number" of a sweep: the artefact has the kernels of
 *                that sweep alone, on a GPU for aligned rows alone, which the
 *                tuner measures; it is not one to keep
 *   examine      candidates for the tuner, {function: [[{field: value}, ...] for
 *                each sweep]}: *bytes is JSON that says of each why it cannot
 *                be run, or what its kernel does, counted
 */
FLAREC_EXPORT int flarec_compile(const char *request, char **bytes,
                                 size_t *size, char **error);

/* Frees what these functions return; takes null. */
FLAREC_EXPORT void flarec_free(void *memory);

/* Project version, '+', artefact format: the request's "version". */
FLAREC_EXPORT const char *flarec_version(void);

/* The stages for a target, one a line: name, tab, and the MLIR passes that lead
 * to it (none for LLVM's stages). `gradients` are the names of the arguments to
 * differentiate with respect to, separated by commas; empty for a forward that
 * saves what a backward needs; null to leave functions as they are. Returns null
 * for an unknown target. The caller frees it with flarec_free. */
FLAREC_EXPORT char *flarec_stages(const char *target, const char *gradients);

/* What ptxas makes of PTX, for the tuner: JSON in *report, {"kernels": [{"name",
 * "registers", "spills", "stack", "barriers"}], "warnings": [text]}, and the
 * machine code in *cubin and *size. Returns 1 with a message in *error where the
 * text is refused, 2 where there is no ptxas. */
FLAREC_EXPORT int flarec_assemble(const char *ptx, const char *target,
                                  char **report, char **cubin, size_t *size,
                                  char **error);

/* The program flare-opt. */
FLAREC_EXPORT int flarec_opt_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif /* FLAREC_COMPILER_H */
