// safetensors: named tensors in one file (github.com/huggingface/safetensors), written atomically, read with suspicion.
//
//   8 bytes, little-endian: n    n bytes of JSON, padded with spaces to a multiple of 8    the tensors' bytes
//   {"__metadata__":{"key":"value"},"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
//
// Offsets count from the end of the header and cover all that follows it, without gap or overlap. As in the reference
// implementation, wide elements go first, then names in order: a file is the same bytes whatever the order of add().
// Whatever is in a file, read() gives what it says or an Error of one line that names the file and the tensor.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/core/require.hpp>

namespace relay {

/// What a file says about itself, in words.
using Metadata = std::map<std::string, std::string>;

/// Sizes of a tensor; none: a single element.
using Shape = std::vector<std::int64_t>;

/// How elements are stored; add() makes the first two. In the order in which they stand in a file.
enum class Dtype { f64, f32, bf16, f16 };

class Safetensors {
 public:
  struct Tensor {
    Dtype dtype = Dtype::f32;
    Shape shape;
    std::string bytes;  // row-major, little-endian
  };
  using Tensors = std::map<std::string, Tensor, std::less<>>;

  Metadata metadata;

  static Safetensors read(const std::string& path);
  void write(const std::string& path) const;

  /// The same of a file that is in memory; the path is for errors.
  static Safetensors parse(std::string_view file, const std::string& path);
  std::string bytes(const std::string& path) const;

  /// Takes the tensors of another file; throws where both have one of a name.
  void take(Safetensors other);

  /// A new tensor; the shape must hold as many elements as there are values.
  void add(const std::string& name, Shape shape, std::span<const float> values) {
    add(name, Dtype::f32, std::move(shape), values);
  }
  void add(const std::string& name, Shape shape, std::span<const double> values) {
    add(name, Dtype::f64, std::move(shape), values);
  }

  const Tensors& tensors() const { return tensors_; }
  /// Null where there is none.
  const Tensor* find(std::string_view name) const;
  /// The tensor's elements as S, whichever type they are stored in.
  template <std::floating_point S>
  std::vector<S> values(std::string_view name) const;

 private:
  void add(const std::string& name, Dtype dtype, Shape shape, auto values);

  Tensors tensors_;
};

namespace detail {

static_assert(std::endian::native == std::endian::little,
              "relay: safetensors are read and written on little-endian machines");

struct DtypeName {
  Dtype dtype;
  std::string_view name;
  std::size_t bytes;  // of an element
};
inline constexpr DtypeName dtypes[] = {
    {Dtype::f64, "F64", 8}, {Dtype::f32, "F32", 4}, {Dtype::bf16, "BF16", 2}, {Dtype::f16, "F16", 2}};
constexpr const DtypeName& about(Dtype dtype) { return dtypes[static_cast<std::size_t>(dtype)]; }

/// Elements of a tensor; nothing where a size is negative or the product too large to count their bytes.
inline std::optional<std::uint64_t> count_elements(const Shape& shape) {
  constexpr std::uint64_t most = std::uint64_t{1} << 60;
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || (size > 0 && count > most / static_cast<std::uint64_t>(size))) return {};
    count *= static_cast<std::uint64_t>(size);
  }
  return count;
}

/// A name as errors show it: on one line, whatever it holds.
inline std::string in_quotes(std::string_view name) {
  std::string out;
  append_json_string(out, name);
  return out;
}

/// "[2, 3]"
inline std::string show_shape(const Shape& shape) {
  std::string out = "[";
  for (const char* between = ""; const std::int64_t size : shape)
    (out += std::exchange(between, ", ")) += message(size);
  return out + "]";
}

inline float from_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits >> 15) << 31;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | static_cast<std::uint32_t>(fraction) << 13);
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return sign == 0 ? size : -size;
}

/// Reads one file's bytes; every error begins with the path and ends with what to do.
class SafetensorsParser {
 public:
  SafetensorsParser(std::string_view file, const std::string& path) : file_(file), path_(path) {}

  void parse(Metadata& metadata, Safetensors::Tensors& tensors) {
    const Json json = header();
    std::vector<Entry> entries;
    for (const Json::Member& member : json.as_object()) {
      if (member.key == "__metadata__")
        for (const Json::Member& word : object(member.value, "__metadata__"))
          metadata.emplace(word.key, string(word.value, "__metadata__: " + in_quotes(word.key)));
      else
        entries.push_back(entry(member));
    }
    check_cover(entries);
    for (Entry& e : entries)
      tensors.emplace(e.name, Safetensors::Tensor{e.dtype, std::move(e.shape),
                                                  std::string(data_.substr(e.begin, e.end - e.begin))});
  }

 private:
  struct Entry {
    std::string name;
    Dtype dtype;
    Shape shape;
    std::size_t begin, end;  // in data_
  };
  static constexpr std::uint64_t longest_header = 100'000'000;  // as in the reference implementation

  template <class... Parts>
  [[noreturn]] void damaged(const Parts&... parts) const {
    fail(path_, ": ", parts..., ": the file is damaged or no safetensors: replace it with an intact copy");
  }

  /// The header; data_ becomes what follows it.
  Json header() {
    if (file_.size() < 8) damaged("only ", file_.size(), " bytes, but a header needs 8 and more");
    std::uint64_t length;
    std::memcpy(&length, file_.data(), 8);
    const std::size_t rest = file_.size() - 8;
    if (length > rest) damaged("a header of ", length, " bytes is announced, but only ", rest, " follow");
    if (length > longest_header) damaged("a header of ", length, " bytes is announced, more than ", longest_header);
    const std::string_view text = file_.substr(8, static_cast<std::size_t>(length));
    data_ = file_.substr(8 + text.size());
    if (!text.starts_with('{')) damaged("the header does not begin with '{'");
    try {
      return parse_json(text, "header");
    } catch (const Error& e) {
      std::string why = e.what();  // may quote a key with anything in it
      std::replace_if(
          why.begin(), why.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
      damaged(why);
    }
  }

  const Json::Object& object(const Json& json, std::string_view what) const {
    if (!json.is_object()) damaged(what, " must be an object");
    return json.as_object();
  }
  const std::string& string(const Json& json, const std::string& what) const {
    if (!json.is_string()) damaged(what, " must be a string");
    return json.as_string();
  }

  Entry entry(const Json::Member& member) const {
    const std::string tensor = "tensor " + in_quotes(member.key);
    object(member.value, tensor);
    const auto field = [&](std::string_view name) -> const Json& {
      const Json* found = member.value.find(name);
      if (!found) damaged(tensor, " has no \"", name, "\"");
      return *found;
    };
    const auto integers = [&](std::string_view name) {
      const Json& json = field(name);
      const auto whole = [](const Json& n) {
        return n.is_number() && std::trunc(n.as_number()) == n.as_number() && n.as_number() >= 0 &&
               n.as_number() <= 0x1p53;
      };
      if (!json.is_array() || !std::all_of(json.as_array().begin(), json.as_array().end(), whole))
        damaged(tensor, ": \"", name, "\" must be an array of whole numbers from 0 on");
      Shape out;
      for (const Json& n : json.as_array()) out.push_back(n.as_integer());
      return out;
    };

    const std::string& dtype = string(field("dtype"), tensor + ": \"dtype\"");
    const auto known =
        std::find_if(std::begin(dtypes), std::end(dtypes), [&](const DtypeName& d) { return d.name == dtype; });
    require(known != std::end(dtypes), path_, ": ", tensor, " has dtype ", in_quotes(dtype),
            ", but F64, F32, BF16 and F16 are read: convert the tensor to one of them");
    Shape shape = integers("shape");
    const Shape offsets = integers("data_offsets");
    if (offsets.size() != 2) damaged(tensor, ": \"data_offsets\" must be two numbers, begin and end");
    const auto begin = static_cast<std::uint64_t>(offsets[0]), end = static_cast<std::uint64_t>(offsets[1]);
    if (begin > end || end > data_.size())
      damaged(tensor, " lies at bytes ", begin, " to ", end, " of the data, which has ", data_.size());
    const auto count = count_elements(shape);
    if (!count) damaged(tensor, ": shape ", show_shape(shape), " is too large");
    if (*count * known->bytes != end - begin)
      damaged(tensor, ": shape ", show_shape(shape), " of ", dtype, " needs ", *count * known->bytes,
              " bytes, but has ", end - begin);
    return {member.key, known->dtype, std::move(shape), static_cast<std::size_t>(begin), static_cast<std::size_t>(end)};
  }

  /// Every byte of the data belongs to one tensor. Leaves the entries in the order of their data.
  void check_cover(std::vector<Entry>& entries) const {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::size_t covered = 0;
    for (const Entry& e : entries) {
      if (e.begin < covered)
        damaged("tensor ", in_quotes(e.name), " overlaps another at byte ", e.begin, " of the data");
      if (e.begin > covered)
        damaged("bytes ", covered, " to ", e.begin, " of the data, before tensor ", in_quotes(e.name),
                ", belong to no tensor");
      covered = e.end;
    }
    if (covered < data_.size())
      damaged("bytes ", covered, " to ", data_.size(), " of the data, at its end, belong to no tensor");
  }

  std::string_view file_, data_;
  const std::string& path_;
};

}  // namespace detail

inline Safetensors Safetensors::read(const std::string& path) { return parse(read_file(path), path); }

inline void Safetensors::write(const std::string& path) const { write_file_atomically(path, bytes(path)); }

inline Safetensors Safetensors::parse(std::string_view file, const std::string& path) {
  Safetensors out;
  detail::SafetensorsParser(file, path).parse(out.metadata, out.tensors_);
  return out;
}

inline void Safetensors::take(Safetensors other) {
  tensors_.merge(other.tensors_);
  require(other.tensors_.empty(), "there is a tensor ", other.tensors_.empty() ? "" : detail::in_quotes(other.tensors_.begin()->first),
          " in both files: take one of them out");
}

inline std::string Safetensors::bytes(const std::string& path) const {
  std::vector<const Tensors::value_type*> order;
  for (const auto& named : tensors_) order.push_back(&named);
  std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->second.dtype < b->second.dtype; });

  Json header = Json::object();
  if (!metadata.empty()) {
    Json words = Json::object();
    for (const auto& [key, word] : metadata) words.set(key, word);
    header.set("__metadata__", words);
  }
  std::size_t size = 0;
  for (const auto* named : order) {
    const Tensor& tensor = named->second;
    const std::size_t begin = std::exchange(size, size + tensor.bytes.size());
    Json entry = Json::object();
    entry.set("dtype", detail::about(tensor.dtype).name);
    entry.set("shape", Json::array(tensor.shape));
    entry.set("data_offsets", Json::array(std::vector{begin, size}));
    header.set(named->first, std::move(entry));
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Error& e) {  // a name or a word that is not UTF-8
    fail("cannot write ", path, ": ", e.what());
  }
  text.append((8 - text.size() % 8) % 8, ' ');

  const std::uint64_t length = text.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file.reserve(8 + text.size() + size);
  file += text;
  for (const auto* named : order) file += named->second.bytes;
  return file;
}

inline void Safetensors::add(const std::string& name, Dtype dtype, Shape shape, auto values) {
  require(name != "__metadata__", "a tensor cannot be called \"__metadata__\": choose another name");
  require(detail::count_elements(shape) == values.size(), "tensor \"", name, "\" of shape ", detail::show_shape(shape),
          " was given ", values.size(), " values");
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  const bool added =
      tensors_.emplace(name, Tensor{dtype, std::move(shape), std::string(bytes, values.size_bytes())}).second;
  require(added, "there is a tensor \"", name, "\" already: choose another name");
}

inline const Safetensors::Tensor* Safetensors::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

template <std::floating_point S>
std::vector<S> Safetensors::values(std::string_view name) const {
  const Tensor* tensor = find(name);
  require(tensor != nullptr, "there is no tensor \"", name, "\": tensors() has those that are");
  const std::size_t size = detail::about(tensor->dtype).bytes;
  std::vector<S> out(tensor->bytes.size() / size);
  const auto convert = [&](auto stored, auto&& meaning) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::memcpy(&stored, tensor->bytes.data() + i * size, size);
      out[i] = static_cast<S>(meaning(stored));
    }
  };
  switch (tensor->dtype) {
    case Dtype::f64:
      convert(double{}, [](double v) { return v; });
      break;
    case Dtype::f32:
      convert(float{}, [](float v) { return v; });
      break;
    case Dtype::f16:
      convert(std::uint16_t{}, detail::from_f16);
      break;
    case Dtype::bf16:
      convert(std::uint16_t{},
              [](std::uint16_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16); });
      break;
  }
  return out;
}

}  // namespace relay
