#include <relay/io/safetensors.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "scratch.hpp"

using namespace relay;
using namespace std::string_literals;

namespace {

/// A file of this header, its length before it, and this data behind it.
std::string file_of(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return file + header + data;
}

Safetensors read_bytes(const std::string& bytes) {
  Folder folder;
  put_file(folder / "f.safetensors", bytes);
  return Safetensors::read(folder / "f.safetensors");
}

/// The error of reading these bytes, without the folder.
std::string error_of(const std::string& bytes) {
  Folder folder;
  put_file(folder / "f.safetensors", bytes);
  const std::string what = error([&] { Safetensors::read(folder / "f.safetensors"); });
  const std::string path = folder / "f.safetensors";
  if (what == "no error") return what;
  REQUIRE(what.starts_with(path + ": "));
  REQUIRE(!contains(what, "\n"));
  return what.substr(path.size() + 2);
}

const std::string damaged = ": the file is damaged or no safetensors: replace it with an intact copy";

std::string error_of(const std::string& header, const std::string& data) { return error_of(file_of(header, data)); }

const std::vector<float> two{1.5f, -2};

}  // namespace

TEST_CASE("what is written comes back, bit for bit") {
  Folder folder;
  const std::vector<float> floats{0, -0.0f, 1e-45f, std::numeric_limits<float>::infinity(), std::nanf("7"), 3.4e38f};
  const std::vector<double> doubles{0.1, -1e308, 5e-324};
  Safetensors file;
  file.metadata = {{"step", "7"}, {"note", "a \"quoted\"\nline, \xC3\xA9"}};
  file.add("floats", {2, 3}, floats);
  file.add("doubles", {3}, doubles);
  file.add("scalar", {}, std::vector{4.0f});
  file.add("empty", {0, 5}, std::vector<double>());
  file.add("with \"quotes\" and\nlines", {1}, std::vector{4.0f});
  file.write(folder / "f");

  const Safetensors back = Safetensors::read(folder / "f");
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.tensors().size() == 5);
  for (const auto& [name, tensor] : file.tensors()) {
    const auto* found = back.find(name);
    REQUIRE(found != nullptr);
    CHECK(found->dtype == tensor.dtype);
    CHECK(found->shape == tensor.shape);
    CHECK(found->bytes == tensor.bytes);
  }
  CHECK(std::memcmp(back.values<float>("floats").data(), floats.data(), 24) == 0);
  CHECK(back.values<double>("doubles") == doubles);
  CHECK(back.values<double>("scalar") == std::vector{4.0});
  CHECK(back.values<float>("doubles")[0] == 0.1f);
  CHECK(back.find("other") == nullptr);
  CHECK(contains(error([&] { back.values<float>("other"); }), "no tensor \"other\""));
}

TEST_CASE("a file is these bytes") {
  Folder folder;
  Safetensors file;
  file.metadata = {{"b", "2"}, {"a", "1"}};
  file.add("y", {2}, two);
  file.add("x", {1, 1}, std::vector{1.0f});
  file.add("z", {}, std::vector{1.0});
  file.write(folder / "f");
  std::string header =
      R"({"__metadata__":{"a":"1","b":"2"},"z":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
      R"("x":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]},"y":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  CHECK(read_file(folder / "f") ==
        file_of(header, "\0\0\0\0\0\0\xF0\x3F"s + "\0\0\x80\x3F"s + "\0\0\xC0\x3F\0\0\0\xC0"s));
  CHECK(header.size() % 8 == 0);
  CHECK(!exists(folder / "f.tmp"));

  Safetensors nothing;
  nothing.write(folder / "nothing");
  CHECK(read_file(folder / "nothing") == "\x08\0\0\0\0\0\0\0{}      "s);
  CHECK(Safetensors::read(folder / "nothing").tensors().empty());
}

TEST_CASE("a file of the reference implementation is read, and would be written so") {
  // Python, safetensors 0.8.0: save_file({"w": F32 [[1, 2, 3]], "h": F16 [0.5, -2], "g": BF16 [1.5], "d": F64 0.1}, ...)
  const std::string bytes =
      "\x00\x01\0\0\0\0\0\0"s +
      R"({"__metadata__":{"format":"pt"},"d":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
      R"("w":{"dtype":"F32","shape":[1,3],"data_offsets":[8,20]},"g":{"dtype":"BF16","shape":[1],"data_offsets":[20,22]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[22,26]}}     )" +
      "\x9A\x99\x99\x99\x99\x99\xB9\x3F\0\0\x80\x3F\0\0\0\x40\0\0\x40\x40\xC0\x3F\0\x38\0\xC0"s;
  const Safetensors file = read_bytes(bytes);
  CHECK(file.metadata == Metadata{{"format", "pt"}});
  CHECK(file.find("w")->shape == Shape{1, 3});
  CHECK(file.find("d")->shape.empty());
  CHECK(file.values<float>("w") == std::vector<float>{1, 2, 3});
  CHECK(file.values<float>("h") == std::vector<float>{0.5f, -2});
  CHECK(file.values<double>("g") == std::vector<double>{1.5});
  CHECK(file.values<double>("d") == std::vector<double>{0.1});
  CHECK(file.values<float>("d") == std::vector<float>{0.1f});

  Folder folder;
  file.write(folder / "f");
  CHECK(read_file(folder / "f") == bytes);
}

TEST_CASE("half precision means what IEEE 754 says") {
  using detail::from_f16;
  CHECK(from_f16(0x0000) == 0);
  CHECK(std::signbit(from_f16(0x8000)));
  CHECK(from_f16(0x0001) == 0x1p-24f);  // the smallest subnormal
  CHECK(from_f16(0x03FF) == 0x3FFp-24f);
  CHECK(from_f16(0x0400) == 0x1p-14f);
  CHECK(from_f16(0x3C01) == 1 + 0x1p-10f);
  CHECK(from_f16(0x7BFF) == 65504);
  CHECK(from_f16(0xFC00) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(from_f16(0x7E00)));
}

TEST_CASE("what cannot be in a file is refused") {
  Folder folder;
  Safetensors file;
  file.add("x", {2}, two);
  CHECK(error([&] { file.add("x", {2}, two); }) == "there is a tensor \"x\" already: choose another name");
  CHECK(error([&] { file.add("y", {2, 2}, two); }) == "tensor \"y\" of shape [2, 2] was given 2 values");
  CHECK(contains(error([&] { file.add("y", {-1, -2}, two); }), "of shape [-1, -2]"));
  CHECK(contains(error([&] { file.add("y", {1LL << 62, 4, 2}, two); }), "was given 2 values"));
  CHECK(contains(error([&] { file.add("__metadata__", {2}, two); }), "choose another name"));
  file.metadata["bad"] = "\xFF";
  CHECK(contains(error([&] { file.write(folder / "f"); }),
                 "cannot write " + (folder / "f") + ": byte 1 of a text is not UTF-8"));
  CHECK(!exists(folder / "f"));
}

TEST_CASE("a broken frame is named") {
  CHECK(error_of("") == "only 0 bytes, but a header needs 8 and more" + damaged);
  CHECK(error_of("1234567") == "only 7 bytes, but a header needs 8 and more" + damaged);
  CHECK(error_of("\x09\0\0\0\0\0\0\0{}      "s) == "a header of 9 bytes is announced, but only 8 follow" + damaged);
  CHECK(error_of("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}      "s) ==
        "a header of 18446744073709551615 bytes is announced, but only 8 follow" + damaged);
  CHECK(error_of("\0\0\0\0\0\0\0\0{}      "s) == "the header does not begin with '{'" + damaged);
  CHECK(error_of("[]", "") == "the header does not begin with '{'" + damaged);
  CHECK(error_of(" {}", "") == "the header does not begin with '{'" + damaged);
  CHECK(error_of("a text that is no such file").ends_with(damaged));
  CHECK(error_of(std::string(16, '\xFF')).ends_with(damaged));
  CHECK(contains(error_of("{\"x\":", ""), "header: line 1, column 6 (end): expected a value"));
  CHECK(contains(error_of("{}{}", ""), "expected nothing after the value"));
  CHECK(contains(error_of("{\"\xFF\":1}", ""), "not UTF-8"));
  CHECK(contains(error_of(std::string(100000, '{'), ""), damaged));
  CHECK(contains(error_of("{\"x\":" + std::string(100000, '['), ""), "nested deeper"));
}

TEST_CASE("a broken entry is named") {
  const auto of = [](const std::string& entry) { return error_of("{\"x\":" + entry + "}", "12345678"); };
  CHECK(of("1") == "tensor \"x\" must be an object" + damaged);
  CHECK(of(R"({"shape":[2],"data_offsets":[0,8]})") == "tensor \"x\" has no \"dtype\"" + damaged);
  CHECK(of(R"({"dtype":"F32","data_offsets":[0,8]})") == "tensor \"x\" has no \"shape\"" + damaged);
  CHECK(of(R"({"dtype":"F32","shape":[2]})") == "tensor \"x\" has no \"data_offsets\"" + damaged);
  CHECK(of(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})") == "tensor \"x\": \"dtype\" must be a string" + damaged);
  CHECK(of(R"({"dtype":"I64","shape":[1],"data_offsets":[0,8]})") ==
        "tensor \"x\" has dtype \"I64\", but F64, F32, BF16 and F16 are read: convert the tensor to one of them");
  CHECK(contains(of(R"({"dtype":"a\nb","shape":[1],"data_offsets":[0,8]})"), R"(has dtype "a\nb")"));
  const std::string whole = " must be an array of whole numbers from 0 on" + damaged;
  for (const char* bad : {"2", "[-2]", "[2.5]", "[1e300]", "[\"2\"]", "[null]", "[9007199254740994]", "{}"})
    CHECK(of(R"({"dtype":"F32","shape":)"s + bad + R"(,"data_offsets":[0,8]})") == "tensor \"x\": \"shape\"" + whole);
  CHECK(of(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})") == "tensor \"x\": \"data_offsets\"" + whole);
  for (const char* bad : {"[]", "[8]", "[0,8,8]"})
    CHECK(of(R"({"dtype":"F32","shape":[2],"data_offsets":)"s + bad + "}") ==
          "tensor \"x\": \"data_offsets\" must be two numbers, begin and end" + damaged);
  CHECK(of(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})") ==
        "tensor \"x\" lies at bytes 8 to 0 of the data, which has 8" + damaged);
  CHECK(of(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})") ==
        "tensor \"x\" lies at bytes 0 to 12 of the data, which has 8" + damaged);
  CHECK(of(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})") ==
        "tensor \"x\": shape [3] of F32 needs 12 bytes, but has 8" + damaged);
  CHECK(of(R"({"dtype":"F64","shape":[2],"data_offsets":[0,8]})") ==
        "tensor \"x\": shape [2] of F64 needs 16 bytes, but has 8" + damaged);
  for (const char* huge : {"[9007199254740992,9007199254740992]", "[4294967296,4294967296,2]", "[2305843009213693952]"})
    CHECK(of(R"({"dtype":"F32","shape":)"s + huge + R"(,"data_offsets":[0,8]})").starts_with("tensor \"x\": "));
  CHECK(contains(of(R"({"dtype":"F32","shape":[4503599627370496,4096],"data_offsets":[0,8]})"), "is too large"));
  CHECK(error_of(R"({"__metadata__":{"a":1}})", "") == "__metadata__: \"a\" must be a string" + damaged);
  CHECK(error_of(R"({"__metadata__":[]})", "") == "__metadata__ must be an object" + damaged);
}

TEST_CASE("data must be covered once") {
  const auto entry = [](const std::string& name, int begin, int end) {
    return message('"', name, R"(":{"dtype":"F32","shape":[)", (end - begin) / 4, R"(],"data_offsets":[)", begin, ',',
                   end, "]}");
  };
  const auto of = [](const std::string& entries) { return error_of("{" + entries + "}", std::string(16, 'x')); };
  CHECK(of(entry("b", 8, 16) + "," + entry("a", 0, 8)) == "no error");
  CHECK(of(entry("a", 0, 8) + "," + entry("none", 8, 8) + "," + entry("b", 8, 16)) == "no error");
  CHECK(of(entry("a", 0, 12) + "," + entry("b", 8, 16)) ==
        "tensor \"b\" overlaps another at byte 8 of the data" + damaged);
  CHECK(of(entry("a", 0, 16) + "," + entry("b", 0, 16)) ==
        "tensor \"b\" overlaps another at byte 0 of the data" + damaged);
  CHECK(of(entry("a", 0, 16) + "," + entry("b", 4, 4)) ==
        "tensor \"b\" overlaps another at byte 4 of the data" + damaged);
  CHECK(of(entry("a", 0, 4) + "," + entry("b", 8, 16)) ==
        "bytes 4 to 8 of the data, before tensor \"b\", belong to no tensor" + damaged);
  CHECK(of(entry("a", 0, 8)) == "bytes 8 to 16 of the data, at its end, belong to no tensor" + damaged);
  CHECK(contains(of(entry("a", 0, 8) + "," + entry("a", 8, 16)), "the key \"a\" stands twice"));
  CHECK(contains(of(entry("a\\nb", 0, 8) + "," + entry("a\\nb", 8, 16)), "stands twice"));  // and on one line
  CHECK(contains(of(entry("a\\nb", 0, 8)), "belong to no tensor"));
  CHECK(contains(of(R"("x":{"dtype":"F32","dtype":"F32"})"), "the key \"dtype\" stands twice"));
}

TEST_CASE("no file makes the reader do anything but read or throw") {
  Folder folder;
  const std::string path = folder / "f";
  Safetensors file;
  file.metadata = {{"step", "3"}};
  file.add("a.weight", {2, 1}, two);
  file.add("b", {1}, std::vector{1.0});
  file.write(path);
  const std::string bytes = read_file(path);

  int loaded = 0, refused = 0;
  const auto attempt = [&](const std::string& broken) {
    put_file(path, broken);
    try {
      const Safetensors back = Safetensors::read(path);
      for (const auto& [name, tensor] : back.tensors()) back.values<float>(name);
      ++loaded;
    } catch (const Error& e) {
      const std::string what = e.what();
      REQUIRE_MESSAGE(what.starts_with(path + ": "), what);
      REQUIRE_MESSAGE(!contains(what, "\n"), what);
      ++refused;
    }
  };
  for (std::size_t length = 0; length < bytes.size(); ++length) attempt(bytes.substr(0, length));
  CHECK(loaded == 0);  // no part of a file passes for the whole
  attempt(bytes + "x");
  CHECK(loaded == 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string broken = bytes;
      broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
      attempt(broken);
    }
    for (const char c : {'\0', '\n', '"', '\\', '9', '-', ' ', '{', ']', '\xFF'}) {
      std::string broken = bytes;
      broken[i] = c;
      attempt(broken);
    }
  }
  CHECK(loaded > 0);  // flipped data, a letter of a name
  CHECK(refused > 0);
}
