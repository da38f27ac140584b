// Where the elements of a tensor of the CUDA backend lie: at its own place, at one of somebody else's, or where another tensor's are.
#include <relay/backend/cuda/applications.hpp>

#include <vector>

#include <doctest/doctest.h>

using namespace relay;
using namespace relay::cuda;

namespace {

constexpr std::size_t half = sizeof(bf16);

void write(Tensor& x, float value) {
  for (long i = 0; i < x.size(); ++i) x.as<float>()[i] = value;
}
const void* place_of(const Tensor& x) { return x.data(); }

}  // namespace

TEST_CASE("a tensor at a place of somebody else's: until it is told to be at its own, or needs more room") {
  Memory memory;
  {
    Tensor x(3, 4, {&memory});
    const std::size_t own = memory.used();
    const void* const before = place_of(x);
    write(x, 1);
    x.place(nullptr, 0, {&memory});  // it is at its own
    CHECK(place_of(x) == before);
    CHECK((x.rows() == 3 && x.as<float>()[11] == 1));

    std::vector<float> room(64);
    const int whose = 0;
    x.place(room.data(), 64 * sizeof(float), {&memory}, &whose);
    CHECK(memory.used() == 0);
    CHECK((x.rows() == 0 && x.cols() == 0));
    CHECK(x.placed_for() == &whose);
    for (const int rows : {5, 2, 16}) {  // other shapes are there, too
      x.resize(rows, 4, {&memory});
      CHECK(place_of(x) == room.data());
    }
    write(x, 2);
    CHECK(room[63] == 2);
    const Tensor copy = x;
    CHECK(place_of(copy) != room.data());
    CHECK(copy.placed_for() == nullptr);
    CHECK(memory.used() >= own);

    x.resize(17, 4, {&memory});  // too large
    CHECK(place_of(x) != room.data());
    CHECK(x.placed_for() == nullptr);

    x.place(room.data(), 64 * sizeof(float), {&memory}, &whose);
    x.place(nullptr, 0, {});
    CHECK((x.rows() == 0 && x.placed_for() == nullptr && x.device().memory == &memory));
    x.resize(1, 1, {&memory});
    CHECK(place_of(x) != room.data());
    CHECK(room[63] == 2);
  }
  CHECK(memory.used() == 0);
}

TEST_CASE("a view is the first rows of another tensor, until it gets another shape") {
  Memory memory;
  {
    Tensor x(6, 5, {&memory}), view(9, 9, {&memory}), next;
    write(x, 3);
    const std::size_t used = memory.used();
    view.view(x, 4);
    CHECK(memory.used() < used);
    CHECK((view.rows() == 4 && view.cols() == 5 && view.type() == Type::float32));
    CHECK(place_of(view) == place_of(x));
    CHECK(view.placed_for() == nullptr);
    next.view(view, 2);  // of a view
    CHECK((next.rows() == 2 && place_of(next) == place_of(x)));
    view.resize(4, 5, {&memory});
    CHECK(place_of(view) != place_of(x));
    write(view, 4);
    CHECK(std::as_const(x).as<float>()[0] == 3);

    Tensor narrow;
    narrow.resize_like(x, 2, 3, Type::bfloat16);
    view.view(narrow, 2);
    CHECK((view.type() == Type::bfloat16 && view.cols() == 3 && place_of(view) == place_of(narrow)));
    view.view(x, 6);
    CHECK((view.type() == Type::float32 && place_of(view) == place_of(x)));
  }
  CHECK(memory.used() == 0);
}

TEST_CASE("what lies beside a tensor: at a place where there is one, and at its own where there is none the next time") {
  Memory memory;
  Tensor x(3, 8, {&memory}), y(0, 0, {&memory});
  const Dropping how{0.5, Key(1)};
  std::vector<bf16> room(24);
  CHECK(x.room_for_converted(3, room.data()) == room.data());
  CHECK(x.room_for_converted(3) != room.data());
  CHECK(x.make_dropped(how, room.data()) == room.data());
  CHECK(x.make_dropped(how) != room.data());

  // What was taken from there is there, but not what is written afterwards.
  x.make_dropped(how, room.data());
  CHECK(y.take_dropped(x, how));
  CHECK(place_of(y) == room.data());
  y.resize_like(x, 3, 8, Type::bfloat16);
  CHECK(place_of(y) != room.data());
  CHECK(x.make_dropped(how) != room.data());
}

TEST_CASE("a pass keeps no places of layers that the one before it did not have") {
  Memory memory;
  const Device device{&memory};
  {
    Applications applications;
    std::size_t of_one = 0;
    for (int pass = 0; pass < 5; ++pass) {
      const Tensor weight(128, 256), scale(1, 128);  // of a model that is gone after this pass, but for the memory that they are in
      const std::unique_ptr<Tensor> elsewhere = std::make_unique<Tensor>(weight);
      applications.begin(10, device);
      for (const int first : {0, 6}) {
        const Applied applied(&applications, first, first == 0 ? 6 : 4);
        CHECK(applications.input(*elsewhere, Type::bfloat16) != nullptr);
        CHECK(applications.gradient(pass % 2 == 0 ? weight : *elsewhere, Type::bfloat16) != nullptr);
        CHECK(applications.sums(pass % 2 == 0 ? &scale : elsewhere.get(), 4, 128, nullptr, nullptr) != nullptr);
      }
      applications.begin(10, device);  // without backward
      applications.begin(10, device);
      CHECK(memory.used() == 0);
      of_one = memory.bytes();
    }
    CHECK(memory.bytes() == of_one);
    const Tensor weight(128, 256);
    for (int pass = 0; pass < 3; ++pass) {  // what comes again stays
      applications.begin(10, device);
      const Applied applied(&applications, 0, 10);
      const void* const place = applications.input(weight, Type::bfloat16);
      CHECK(memory.used() == 10 * 256 * half);
      applications.begin(10, device);
      CHECK(applications.input(weight, Type::bfloat16) == place);
    }
    CHECK(applications.input(Tensor(127, 256), Type::bfloat16) == nullptr);  // rows would not be aligned
  }
  CHECK(memory.used() == 0);
}

TEST_CASE("a copy to the host that is under way gives the bytes as they are, by a kernel, by the device's copying, or none") {
  Download download;
  for (const std::size_t bytes : {std::size_t{4}, std::size_t{6}, std::size_t{64 << 10}, std::size_t{(64 << 10) + 4}, std::size_t{0}, std::size_t{516}}) {
    INFO("bytes ", bytes);
    std::vector<unsigned char> from(bytes + 4);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 7 + i / 256 + bytes);
    download.begin(from.data(), bytes);
    const auto* read = download.wait<unsigned char>();
    bool same = true;
    for (std::size_t i = 0; i < bytes; ++i) same = same && read[i] == from[i];
    CHECK(same);
  }
}

TEST_CASE("several lists on the device, written together: each its own part, whatever there was before") {
  Memory memory;
  IndexLists lists;
  const auto check = [&](const std::vector<std::int32_t>& all, const std::vector<int>& firsts, const std::vector<bool>& ascending) {
    const long uploads = cuda_on_host::uploads;
    lists.assign(all, firsts, Device{&memory});
    CHECK(cuda_on_host::uploads - uploads == (all.empty() ? 0 : 1));
    for (std::size_t i = 0; i + 1 < firsts.size(); ++i) {
      CAPTURE(i);
      REQUIRE(lists[i].size() == firsts[i + 1] - firsts[i]);
      CHECK(std::equal(all.begin() + firsts[i], all.begin() + firsts[i + 1], lists[i].data()));
      CHECK(lists[i].ascending() == ascending[i]);
    }
  };
  check({3, 5, 1, 4}, {0, 2, 4}, {true, true});
  std::vector<std::int32_t> many(1000, 7);  // more room: all are elsewhere then
  many[0] = 9;
  check(many, {0, 1, 1, 1000}, {true, true, false});
  check({2}, {0, 0, 1}, {true, true});
  check({}, {0, 0}, {true});
  CHECK(memory.used() > 0);
}
