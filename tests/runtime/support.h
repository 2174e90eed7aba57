// What the runtime's tests share.
#pragma once

#include "flarec/artefact.h"
#include "flarec/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>

namespace flarec::test {

/// A directory of its own for a test, removed with the object.
class TemporaryDirectory {
public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  std::filesystem::path path;
};

/// The bytes of a shared object made from C.
std::string compileC(const std::string &source,
                     const std::string &options = "");

/// A host artefact of one blob.
std::shared_ptr<const Artefact> hostArtefact(FunctionSpec function,
                                             const std::string &source,
                                             const std::string &key = "");

/// A small valid artefact whose blob is not code; `key` as the cache wants it.
Artefact sampleArtefact(const std::string &key = "");

/// Runs `body` in a forked process and returns its exit code: what `body`
/// returns, 100 when it throws, or minus the signal that ended it.
int inChild(const std::function<int()> &body);

std::string readBytes(const std::filesystem::path &path);
void writeBytes(const std::filesystem::path &path, const std::string &bytes);
std::vector<std::filesystem::path>
filesIn(const std::filesystem::path &directory);

/// The message of the Error that `body` throws.
std::string errorOf(const std::function<void()> &body);

} // namespace flarec::test
