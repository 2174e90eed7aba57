//===- npy.cpp - reading NumPy's .npy files -------------------------------===//
//
// Layout of a file: "\x93NUMPY", version (2 bytes), header length (2 bytes in
// version 1, else 4, little endian), header (the literal of a Python dict with
// the keys descr, fortran_order, shape), raw values.
//
//===----------------------------------------------------------------------===//
#include "npy.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string_view>

namespace flarec::train {
namespace {

[[noreturn]] void damaged(const std::string &name, const std::string &why) {
  throw std::runtime_error("cannot read '" + name + "': " + why);
}

/// The header's dict, one value at a time.
class HeaderParser {
public:
  HeaderParser(std::string_view text, const std::string &name)
      : text(text), name(name) {}

  void parse() {
    expect('{');
    while (!accept('}')) {
      std::string key = quoted();
      expect(':');
      if (key == "descr")
        descr = parseDescr();
      else if (key == "fortran_order")
        fortran = boolean();
      else if (key == "shape")
        shape = tuple();
      else
        fail("unknown key '" + key + "'");
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (!descr || !fortran || !shape)
      fail("'descr', 'fortran_order' or 'shape' is missing");
  }

  std::optional<std::string> descr;
  std::optional<bool> fortran;
  std::optional<std::vector<int64_t>> shape;

private:
  [[noreturn]] void fail(const std::string &why) {
    damaged(name, "its header is damaged (" + why + ")");
  }
  void skipSpace() {
    while (at < text.size() &&
           std::isspace(static_cast<unsigned char>(text[at])))
      ++at;
  }
  bool accept(char c) {
    skipSpace();
    if (at < text.size() && text[at] == c) {
      ++at;
      return true;
    }
    return false;
  }
  void expect(char c) {
    if (!accept(c))
      fail(std::string("expected '") + c + "' at byte " + std::to_string(at));
  }
  std::string quoted() {
    skipSpace();
    if (at >= text.size() || (text[at] != '\'' && text[at] != '"'))
      fail("expected a quoted word at byte " + std::to_string(at));
    size_t end = text.find(text[at], at + 1);
    if (end == std::string_view::npos)
      fail("a quote is not closed");
    std::string word(text.substr(at + 1, end - at - 1));
    at = end + 1;
    return word;
  }
  std::string parseDescr() {
    skipSpace();
    if (at < text.size() && text[at] == '[')
      damaged(name, "it holds records; supported are arrays of bool, float32 "
                    "and float64. Save the fields one by one");
    return quoted();
  }
  bool boolean() {
    skipSpace();
    for (auto [word, value] :
         {std::pair<std::string_view, bool>{"True", true}, {"False", false}})
      if (text.substr(at, word.size()) == word) {
        at += word.size();
        return value;
      }
    fail("fortran_order is neither True nor False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> extents;
    expect('(');
    while (!accept(')')) {
      skipSpace();
      size_t begin = at;
      int64_t value = 0;
      while (at < text.size() &&
             std::isdigit(static_cast<unsigned char>(text[at]))) {
        if (__builtin_mul_overflow(value, int64_t(10), &value) ||
            __builtin_add_overflow(value, int64_t(text[at] - '0'), &value))
          fail("an extent does not fit in 64 bits");
        ++at;
      }
      if (at == begin)
        fail("expected an extent at byte " + std::to_string(at));
      extents.push_back(value);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return extents;
  }

  std::string_view text;
  const std::string &name;
  size_t at = 0;
};

template <typename T> float valueAt(const char *data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return static_cast<float>(value);
}

/// Copies values to C order. Fortran order: the first index runs fastest.
template <typename T>
void copyValues(const char *data, bool fortran, NpyArray &array) {
  size_t count = array.values.size();
  if (!fortran || array.shape.size() < 2) {
    for (size_t i = 0; i < count; ++i)
      array.values[i] = valueAt<T>(data, i);
    return;
  }
  size_t rank = array.shape.size();
  std::vector<int64_t> index(rank, 0);
  std::vector<int64_t> stride(rank, 1);
  for (size_t d = 1; d < rank; ++d)
    stride[d] = stride[d - 1] * array.shape[d - 1];
  size_t source = 0;
  for (size_t i = 0; i < count; ++i) {
    array.values[i] = valueAt<T>(data, source);
    for (size_t d = rank; d-- > 0;) {
      source += stride[d];
      if (++index[d] < array.shape[d])
        break;
      source -= stride[d] * array.shape[d];
      index[d] = 0;
    }
  }
}

} // namespace

std::string shapeText(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

NpyArray parseNpy(const std::string &bytes, const std::string &name) {
  constexpr std::string_view magic("\x93NUMPY", 6);
  if (bytes.size() < 10 || std::string_view(bytes).substr(0, 6) != magic)
    damaged(name, "it is not a .npy file (it does not begin with "
                  "\"\\x93NUMPY\"). Write it with numpy.save");
  int version = static_cast<unsigned char>(bytes[6]);
  if (version < 1 || version > 3)
    damaged(name, "it has .npy format version " + std::to_string(version) +
                      "; supported are 1, 2 and 3");
  size_t lengthBytes = version == 1 ? 2 : 4;
  size_t start = 8 + lengthBytes, length = 0;
  if (bytes.size() < start)
    damaged(name, "it ends within its header; copy it again");
  for (size_t i = 0; i < lengthBytes; ++i)
    length |= size_t(static_cast<unsigned char>(bytes[8 + i])) << (8 * i);
  if (bytes.size() - start < length)
    damaged(name, "it ends within its header; copy it again");

  HeaderParser header(std::string_view(bytes).substr(start, length), name);
  header.parse();

  size_t width = 0;
  if (*header.descr == "|b1" || *header.descr == "?")
    width = 1;
  else if (*header.descr == "<f4")
    width = 4;
  else if (*header.descr == "<f8")
    width = 8;
  else
    damaged(name, "its values have type '" + *header.descr +
                      "'; supported are bool ('|b1'), float32 ('<f4') and "
                      "float64 ('<f8'). Convert with "
                      "array.astype(numpy.float32)");

  NpyArray array;
  array.shape = *header.shape;
  size_t count = 1;
  bool empty = false;
  for (int64_t extent : array.shape)
    empty |= extent == 0;
  for (int64_t extent : array.shape)
    if (__builtin_mul_overflow(count, size_t(empty ? 0 : extent), &count))
      damaged(name, "its shape " + shapeText(array.shape) + " is too large");
  size_t have = bytes.size() - start - length;
  if (count > std::numeric_limits<size_t>::max() / width ||
      have != count * width)
    damaged(name, "shape " + shapeText(array.shape) + " of type '" +
                      *header.descr + "' needs " + std::to_string(count) +
                      " values of " + std::to_string(width) +
                      " bytes, but the file has " + std::to_string(have) +
                      " bytes of values; copy it again");

  array.values.resize(count);
  const char *data = bytes.data() + start + length;
  if (width == 1)
    copyValues<uint8_t>(data, *header.fortran, array);
  else if (width == 4)
    copyValues<float>(data, *header.fortran, array);
  else
    copyValues<double>(data, *header.fortran, array);
  return array;
}

NpyArray readNpy(const std::filesystem::path &path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    damaged(path.string(), "there is no such file");
  if (!std::filesystem::is_regular_file(path, error))
    damaged(path.string(), "it is not a file");
  std::ifstream file(path, std::ios::binary);
  if (!file)
    damaged(path.string(), "it cannot be opened (permissions?)");
  std::ostringstream content;
  content << file.rdbuf();
  if (file.bad())
    damaged(path.string(), "reading failed");
  return parseNpy(content.str(), path.string());
}

} // namespace flarec::train
