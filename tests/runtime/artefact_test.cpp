#include "flarec/sha256.h"
#include "support.h"

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

// FIPS 180-4's examples, and the lengths at which the padding takes one block
// more.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(sha256Hex(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256Hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256Hex(std::string(55, 'a')),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(sha256Hex(std::string(64, 'a')),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  EXPECT_EQ(sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Artefact, RoundTrip) {
  Artefact artefact = sampleArtefact("abc");
  std::string bytes = artefact.serialise();
  Artefact again = Artefact::parse(bytes);
  EXPECT_EQ(again.serialise(), bytes);
  EXPECT_EQ(again.manifest().json(), artefact.manifest().json());
  EXPECT_EQ(again.code(0), std::string_view("ptx text\0", 9));
  EXPECT_EQ(again.code(1), "cubin bytes");
  const FunctionSpec &function = again.manifest().functions.at(0);
  EXPECT_EQ(function.argumentCount(), 4u);
  EXPECT_EQ(function.tensors[0].type, DType::BF16);
  EXPECT_TRUE(function.tensors[3].reduced);
  EXPECT_EQ(function.tensors[4].sweep, 0);
  EXPECT_EQ(function.kernels[0].variants[0].tensors, (std::vector<int>{0, 1}));
  EXPECT_EQ(function.kernels[1].blocksPerHead, 4);
}

TEST(Artefact, WhichTokensThereAre) {
  Artefact artefact = sampleArtefact("abc");
  Manifest manifest = artefact.manifest();
  auto &tensors = manifest.functions[0].tensors;
  tensors.insert(tensors.begin() + 2, {{.name = "range",
                                        .index = Index::Batch,
                                        .rows = 1,
                                        .columns = 2,
                                        .type = DType::I32},
                                       {.name = "mask", .type = DType::I8}});
  Manifest again = Manifest::parse(manifest.json());
  EXPECT_EQ(again.json(), manifest.json());
  EXPECT_THAT(again.json(), HasSubstr(R"({"name":"range","role":"input","index":"b","rows":1,"columns":2,"type":"i32"})"));
  EXPECT_EQ(describe(again.functions[0].tensors[3]), "mask<n, i8>");
  tensors[4].type = DType::I8; // a result
  EXPECT_THAT(errorOf([&] { Manifest::parse(manifest.json()); }),
              HasSubstr("integers and what belongs to the batch alone are inputs"));
}

TEST(Artefact, LayoutIsThePages) {
  std::string bytes = sampleArtefact().serialise();
  EXPECT_EQ(bytes.substr(0, 8), std::string("FLAREC\0\1", 8));
  size_t length = size_t(uint8_t(bytes[40])) | size_t(uint8_t(bytes[41])) << 8;
  EXPECT_EQ(bytes[48], '{');
  EXPECT_EQ(bytes[48 + length - 1], '}');
  EXPECT_EQ(bytes.substr(48 + length),
            std::string("ptx text\0cubin bytes", 20));
}

TEST(Artefact, EveryFlippedBitIsFound) {
  std::string bytes = sampleArtefact().serialise();
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] ^= char(1 << (i % 8));
    EXPECT_THROW(Artefact::parse(damaged), Error) << "byte " << i;
  }
}

TEST(Artefact, EveryTruncationIsFound) {
  std::string bytes = sampleArtefact().serialise();
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW(Artefact::parse(bytes.substr(0, size)), Error) << size;
  EXPECT_THROW(Artefact::parse(bytes + "x"), Error);
}

TEST(Artefact, MessagesSayWhatIsWrong) {
  std::string bytes = sampleArtefact().serialise();
  EXPECT_THAT(errorOf([&] { Artefact::parse("#!/bin/sh"); }),
              HasSubstr("not a flarec artefact"));
  std::string newer = bytes;
  newer[7] = 2;
  EXPECT_THAT(errorOf([&] { Artefact::parse(newer); }),
              HasSubstr("format version 2, this runtime reads version 1"));
  std::string damaged = bytes;
  damaged.back() ^= 1;
  EXPECT_THAT(errorOf([&] { Artefact::parse(damaged); }),
              HasSubstr("checksum does not match"));
  EXPECT_THAT(errorOf([&] { Artefact::parse(bytes.substr(0, 20)); }),
              HasSubstr("damaged: 20 bytes"));
  EXPECT_THAT(
      errorOf([&] { Artefact::read("/nowhere/x.flare"); }),
      testing::AllOf(HasSubstr("/nowhere/x.flare"), HasSubstr("no such file")));
}

// A right checksum over wrong content: written by a faulty program, not damaged
// by a disk.
namespace {
std::string withChecksum(std::string body) {
  Sha256 sum = sha256(body);
  return std::string("FLAREC\0\1", 8) + std::string(sum.begin(), sum.end()) +
         body;
}
std::string body(const std::string &manifest, uint64_t length,
                 const std::string &code) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i)
    bytes[i] = char(length >> (8 * i));
  return bytes + manifest + code;
}
} // namespace

TEST(Artefact, ConsistentNonsenseIsFound) {
  std::string json = sampleArtefact().manifest().json();
  std::string code("ptx text\0cubin bytes", 20);
  EXPECT_NO_THROW(Artefact::parse(withChecksum(body(json, json.size(), code))));
  EXPECT_THAT(errorOf([&] {
                Artefact::parse(withChecksum(body(json, 1u << 20, code)));
              }),
              HasSubstr("a manifest of 1048576 bytes"));
  EXPECT_THAT(errorOf([&] {
                Artefact::parse(withChecksum(body(json, ~uint64_t(0), code)));
              }),
              HasSubstr("a manifest of"));
  EXPECT_THAT(errorOf([&] {
                Artefact::parse(withChecksum(body(json, json.size(), "short")));
              }),
              HasSubstr("code[0]"));
  EXPECT_THAT(errorOf([&] {
                Artefact::parse(withChecksum(
                    body(json, json.size(), std::string(20, 'x'))));
              }),
              HasSubstr("does not end in a zero"));
  EXPECT_THAT(
      errorOf([&] { Artefact::parse(withChecksum(body("[[[", 3, ""))); }),
      HasSubstr("not JSON"));
}

TEST(Artefact, ManifestThatIsNoObjectOrHoldsNothing) {
  Manifest nothing = sampleArtefact().manifest();
  nothing.functions.clear();
  const std::pair<std::string, const char *> cases[] = {
      {"[1]", "an object is expected"},
      {"[]", "an object is expected"},
      {"7", "an object is expected"},
      {"null", "an object is expected"},
      {nothing.json(), "at functions: there is none"}};
  for (auto &[manifest, says] : cases)
    EXPECT_THAT(
        errorOf([&] {
          Artefact::parse(
              withChecksum(body(manifest, manifest.size(),
                                std::string("ptx text\0cubin bytes", 20))));
        }),
        testing::AllOf(HasSubstr("the artefact is damaged"), HasSubstr(says)))
        << manifest;
}

struct Fault {
  const char *from, *to, *says;
};

class ManifestFault : public testing::TestWithParam<Fault> {};

TEST_P(ManifestFault, IsNamed) {
  auto [from, to, says] = GetParam();
  std::string json = sampleArtefact().manifest().json();
  size_t at = json.find(from);
  ASSERT_NE(at, std::string::npos) << from << " in " << json;
  json.replace(at, std::string(from).size(), to);
  EXPECT_THAT(errorOf([&] { Manifest::parse(json); }), HasSubstr(says)) << json;
}

INSTANTIATE_TEST_SUITE_P(
    Artefact, ManifestFault,
    testing::Values(
        Fault{"\"format\":1", "\"format\":2", "format"},
        Fault{"\"key\":", "\"kex\":", "\"key\" is missing"},
        Fault{"\"kind\":\"ptx\"", "\"kind\":\"exe\"",
              "code[0].kind: \"exe\" is none of ptx, cubin, elf"},
        Fault{"\"kind\":\"cubin\"", "\"kind\":\"elf\",\"isa\":\"avx2\"",
              "target host has elf blobs"},
        Fault{"\"size\":9", "\"size\":-1",
              "code[0].size: an integer of at least 1"},
        Fault{"\"size\":9", "\"size\":18446744073709551615", "code[0].size"},
        Fault{"\"rows\":128", "\"rows\":0", "tensors[0].rows"},
        Fault{"\"rows\":-1", "\"rows\":7", "tensors[1].rows"},
        Fault{"\"type\":\"bf16\"", "\"type\":\"f64\"", "none of f32, bf16, f16"},
        Fault{"\"role\":\"input\"", "\"role\":\"result\"", "inputs come first"},
        Fault{"\"sweep\":0", "\"sweep\":1",
              "z_partial belongs to sweep 1 of 1"},
        Fault{"\"tile\":64", "\"tile\":0", "sweeps[0].tile"},
        Fault{"\"tile\":64", "\"tile\":\"64\"", "an integer"},
        Fault{"\"threads\":256", "\"threads\":2048", "from 1 to 1024"},
        Fault{"\"code\":1,", "\"code\":", "not JSON"},
        Fault{"\"code\":1", "\"code\":2", "kernels[1].code"},
        Fault{"\"tensors\":[0,1]", "\"tensors\":[0,9]",
              "variants[0].tensors[1]"},
        Fault{"\"symbol\":\"f1\"", "\"symbol\":\"\"", "a name is expected"},
        Fault{"\"grid\":\"latents\"", "\"grid\":\"moon\"",
              "none of sweep, latents"},
        Fault{"\"variants\":[]", "\"variants\":3", "a list is expected"}));

TEST(Artefact, FileIsReplacedAtOnce) {
  TemporaryDirectory directory;
  auto path = directory.path / "mixer.flare";
  writeBytes(path, "old");
  sampleArtefact("k").write(path);
  EXPECT_EQ(Artefact::read(path).manifest().key, "k");
  EXPECT_EQ(filesIn(directory.path).size(), 1u);
  EXPECT_THAT(errorOf([&] {
                sampleArtefact().write(directory.path / "no" / "x.flare");
              }),
              HasSubstr("cannot write the artefact"));
}
