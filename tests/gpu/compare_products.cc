// Products of every type of weights.
#include "compare.h"
#include "core/half.h"
#include "quant/dequantize.h"
#include "quant/types.h"

namespace pyllm::compare {

namespace {

void put_half(std::byte* at, float x) {
  const half h = to_half(x);
  std::memcpy(at, &h, 2);
}

// Where a block keeps its halves; last ones as negative offsets from its end.
std::vector<int> half_fields(Type type) {
  switch (type) {
    case Type::Q2_K:
      return {-4, -2};
    case Type::Q3_K:
    case Type::Q6_K:
    case Type::TQ1_0:
    case Type::TQ2_0:
      return {-2};
    case Type::Q4_1:
    case Type::Q5_1:
    case Type::Q4_K:
    case Type::Q5_K:
      return {0, 2};
    case Type::MXFP4:
    case Type::IQ1_M:
      return {};
    default:
      return {0};
  }
}

struct Case {
  int64_t rows, cols, columns;
};

// The inputs that a product may have.
const Input::Op kOps[] = {Input::Op::None, Input::Op::RmsNorm, Input::Op::SiluGate, Input::Op::GeluGate};

// One product of several matrices, and its result where out held something before.
Matrix product(Backend& backend, const std::vector<WeightSource>& sources, const Matrix& x, Input::Op op,
               bool add, bool bias) {
  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<std::unique_ptr<Vector>> biases;
  int64_t rows = 0;
  for (const WeightSource& s : sources) {
    weights.push_back(backend.matrix(s));
    std::vector<float> values;
    for (int64_t i = 0; i < s.rows; ++i) values.push_back(0.25f * static_cast<float>(i % 7 - 3));
    biases.push_back(backend.vector(values));
    rows += s.rows;
  }
  const int64_t cols = sources[0].cols;
  std::vector<float> norm;
  for (int64_t i = 0; i < cols; ++i) norm.push_back(0.5f + 0.01f * static_cast<float>(i % 50));
  const auto norm_weight = backend.vector(norm);
  Batch batch;
  batch.tokens.assign(static_cast<size_t>(x.rows), 0);
  backend.begin(batch);
  const Tensor in = put(backend, x, 8);
  Tensor out = poisoned(backend, x.rows, rows);
  if (add) {
    Matrix before(x.rows, rows);
    for (size_t i = 0; i < before.values.size(); ++i) before.values[i] = 0.125f * static_cast<float>(i % 16);
    out = put(backend, before, 4);
  }
  std::vector<Factor> factors;
  for (size_t i = 0; i < sources.size(); ++i)
    factors.push_back({weights[i].get(), bias ? biases[i].get() : nullptr});
  Input input;
  input.x = in;
  input.op = op;
  input.weight = norm_weight.get();
  input.eps = 1e-5f;
  backend.matmul(factors, input, out, add);
  const Matrix wide = get(backend, {out.data, out.rows, out.stride, out.stride});
  Matrix result(out.rows, out.cols);
  for (int64_t r = 0; r < out.rows; ++r) {
    std::copy_n(wide.row(r), out.cols, result.row(r));
    for (int64_t c = out.cols; c < wide.cols; ++c)
      if (!std::isnan(wide.row(r)[c]))
        result.row(r)[0] = std::numeric_limits<float>::quiet_NaN();  // out of bounds
  }
  return result;
}

void compare_type(Report& report, Type type) {
  const TypeInfo& info = type_info(type);
  Random random(static_cast<uint32_t>(type) + 1);
  const int64_t block = info.block == 1 ? 1 : info.block;
  std::vector<Case> cases = {{17, 3 * block, 1}, {40, 2 * block, 5}, {70, block, 9}, {33, 2 * block, 19}};
  if (block == 32) cases.push_back({48, 18 * block, 3});  // slices that are not full
  if (block == 1) cases = {{1, 1, 1}, {17, 70, 3}, {40, 96, 9}, {5, 17, 6}, {33, 520, 2}};
  if (!report.quick) {
    cases.push_back({576, block == 256 ? 1536 : 576, 1});
    cases.push_back({192, block == 256 ? 2560 : 1536, 70});
  }
  if (report.smoke) cases = {cases[1], cases[2]};
  const auto cpu = report.cpu(), cuda = report.cuda();
  for (const Case& c : cases) {
    const std::string what = message(info.name, " ", c.rows, "x", c.cols, ", ", c.columns, " columns");
    const auto data = random_weights(type, c.rows, c.cols, random);
    const WeightSource source = {type, c.rows, c.cols, data};
    Matrix x = random.matrix(c.columns, c.cols);
    for (int64_t i = 0; i < std::min<int64_t>(32, c.cols); ++i) x.row(0)[i] = 0.0f;  // a block of zeros
    const Matrix wanted = product(*cpu, {source}, x, Input::Op::None, false, false);
    const Matrix got = product(*cuda, {source}, x, Input::Op::None, false, false);
    report.expect_close(got, wanted, 3e-6, what);
    // A column alone gives the same bits.
    for (int64_t k = 0; k < c.columns; k += report.quick ? 4 : c.columns > 20 ? 13 : 1) {
      Matrix one(1, c.cols);
      std::copy_n(x.row(k), c.cols, one.row(0));
      const Matrix alone = product(*cuda, {source}, one, Input::Op::None, false, false);
      report.expect(same_bits(alone.row(0), got.row(k), c.rows), message(what, ": column ", k, " alone"));
    }
  }
}

}  // namespace

std::vector<std::byte> random_weights(Type type, int64_t rows, int64_t cols, Random& random) {
  const TypeInfo& info = type_info(type);
  const int64_t count = rows * cols / info.block;
  std::vector<std::byte> data(static_cast<size_t>(count * info.bytes));
  for (std::byte& b : data) b = static_cast<std::byte>(random.bits() >> 13);
  for (int64_t i = 0; i < count; ++i) {
    std::byte* at = data.data() + i * info.bytes;
    const float scale = 0.01f * random.normal();
    if (type == Type::F32) {
      std::memcpy(at, &scale, 4);
    } else if (type == Type::F16) {
      put_half(at, scale);
    } else if (type == Type::BF16) {
      const uint32_t bits = float_to_bits(scale) >> 16;
      std::memcpy(at, &bits, 2);
    } else if (type == Type::MXFP4) {
      at[0] = static_cast<std::byte>(118 + random.below(6));
    } else if (type == Type::IQ1_M) {  // its half is spread over the top four bits of the four scale words
      const uint16_t bits = to_half(scale).bits;
      for (int k = 0; k < 4; ++k) {
        std::byte& high = at[info.bytes - 8 + 2 * k + 1];
        high = (high & std::byte{15}) | static_cast<std::byte>((bits >> 4 * k & 15) << 4);
      }
    } else {
      for (const int field : half_fields(type))
        put_half(at + (field < 0 ? info.bytes + field : field), 0.01f * random.normal());
    }
  }
  return data;
}

void compare_products(Report& report) {
  for (const TypeInfo& info : kTypes)
    if (quant::is_weight_type(info.type)) compare_type(report, info.type);

  if (report.smoke) return;

  // Several matrices over one input; norms and gates on the way in; bias and addition; 15-bit activations.
  Random random(99);
  for (const bool precise : {false, true})
    for (const Input::Op op : kOps) {
      const BackendOptions options = {.precise = precise};
      const auto cpu = report.cpu(options), cuda = report.cuda(options);
      const bool gate = op == Input::Op::SiluGate || op == Input::Op::GeluGate;
      for (const int columns : {1, 3, 12}) {
        std::vector<std::vector<std::byte>> data;
        std::vector<WeightSource> sources;
        const Type types[] = {Type::Q4_K, Type::Q4_K, Type::Q6_K, Type::IQ3_S, Type::F16};
        const int64_t rows[] = {48, 21, 35, 17, 9};
        for (int i = 0; i < 5; ++i) data.push_back(random_weights(types[i], rows[i], 512, random));
        for (int i = 0; i < 5; ++i) sources.push_back({types[i], rows[i], 512, data[static_cast<size_t>(i)]});
        const Matrix x = random.matrix(columns, gate ? 1024 : 512, 2.0f);
        const bool add = columns != 3, bias = columns != 1;
        const std::string what =
            message("op ", static_cast<int>(op), precise ? ", precise, " : ", ", columns, " columns");
        const Matrix wanted = product(*cpu, sources, x, op, add, bias);
        const Matrix got = product(*cuda, sources, x, op, add, bias);
        // What a norm or gate rounds differently may become another 8-bit code.
        report.expect_close(got, wanted, op == Input::Op::None ? 3e-6 : precise ? 1e-5 : 2e-3, what);
        Matrix last(1, x.cols);
        std::copy_n(x.row(columns - 1), x.cols, last.row(0));
        if (!add) {
          const Matrix alone = product(*cuda, sources, last, op, add, bias);
          report.expect(same_bits(alone.row(0), got.row(columns - 1), got.cols), what + ": a column alone");
        }
      }
    }

  // What is not finite reaches the results of its own column.
  const auto data = random_weights(Type::Q8_0, 16, 64, random);
  const auto cuda = report.cuda();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Matrix x = random.matrix(3, 64);
    x.row(1)[40] = bad;
    const Matrix got = product(*cuda, {{Type::Q8_0, 16, 64, data}}, x, Input::Op::None, false, false);
    bool good = true;
    for (int i = 0; i < 16; ++i)
      good &= std::isnan(got.row(1)[i]) && std::isfinite(got.row(0)[i]) && std::isfinite(got.row(2)[i]);
    report.expect(good, message("Q8_0 with an activation of ", bad));
  }
}

}  // namespace pyllm::compare
