// Modules by a key that is cheaper to make than a request.
#pragma once

#include "flarec/function.h"

#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

namespace flarec {

/// One module for a key; readers share.
template <typename Key, typename Hash = std::hash<Key>> class Memo {
public:
  template <typename Make>
  std::shared_ptr<Module> get(const Key &key, Make make) {
    {
      std::shared_lock lock(mutex);
      if (auto it = modules.find(key); it != modules.end())
        return it->second;
    }
    std::shared_ptr<Module> module = make();
    std::unique_lock lock(mutex);
    // Two threads may have made one: all use the first.
    return modules.try_emplace(key, std::move(module)).first->second;
  }

private:
  std::shared_mutex mutex;
  std::unordered_map<Key, std::shared_ptr<Module>, Hash> modules;
};

} // namespace flarec
