#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "backend/cuda/layout.h"
#include "quant/dequantize.h"

namespace pyllm::cuda {

namespace {

constexpr int64_t kPiece = 8 << 20;          // bytes copied in at a time
constexpr int64_t kUnpackedBand = 64 << 20;  // bytes of weights that are packed at a time, just before use
constexpr int64_t kPartials = 256 << 20;     // most scratch for chunks of attention that fold afterwards
constexpr float kLog2E = 1.44269504f;

bool is_float(Type type) { return type == Type::F32 || type == Type::F16 || type == Type::BF16; }

int64_t file_bytes(Type type, int64_t rows, int64_t cols) {
  const TypeInfo& info = type_info(type);
  return rows * (cols / info.block) * info.bytes;
}

int narrow(int64_t n, const char* what) {
  if (n > INT32_MAX) fail("CUDA: ", what, ": ", n, " are more than its kernels count");
  return static_cast<int>(n);
}

// PYLLM_CUDA_OFF=graphs,overlap: for measuring, and for drivers that misbehave.
bool is_off(std::string_view what) {
  const char* off = std::getenv("PYLLM_CUDA_OFF");
  return off != nullptr &&
         ("," + std::string(off) + ",").find("," + std::string(what) + ",") != std::string::npos;
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "the device's properties");
  return properties;
}

cudaStream_t make_stream(int device) {
  check(cudaSetDevice(device), "the device");
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  return stream;
}

}  // namespace

int64_t matrix_bytes(Type type, int64_t rows, int64_t cols) {
  if (is_float(type)) return file_bytes(type, rows, cols);
  const PackedKind* kind = packed_kind(type);
  if (kind == nullptr) return -1;
  return kind->kept ? kind->bytes(rows, cols) : file_bytes(type, rows, cols);
}

CudaBackend::CudaBackend(int device, const BackendOptions& options)
    : device_(device),
      precise_(options.precise),
      kv_element_(options.kv_type.keys),
      stream_((options.kv_type.keys == options.kv_type.values && options.kv_type.keys != KvElement::Bits4)
                  ? make_stream(device)
                  : (fail("KV caches on a GPU hold f16 or q8_0; 4-bit ones are for the CPU"), nullptr),
              properties_of(device).major >= 9 && !is_off("overlap")),
      graphs_(!is_off("graphs")) {
  multiprocessors_ = properties_of(device).multiProcessorCount;
}

CudaBackend::~CudaBackend() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_.get());
  cudaStreamDestroy(stream_.get());
}

void CudaBackend::use_device() const { check(cudaSetDevice(device_), "the device"); }
// What is launched from here on belongs to no step.
void CudaBackend::leave_step() {
  use_device();
  stream_.waiting().clear();  // a step may have ended in an error
  stream_.defer(false);
}
void CudaBackend::run_waiting() {
  graphs_.run({static_cast<int>(plan_.padded_rows()), plan_.chunks(), part_++}, stream_);
}
void CudaBackend::synchronize() { check(cudaStreamSynchronize(stream_.get()), "a step"); }

std::optional<int64_t> CudaBackend::free_bytes() const {
  use_device();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "the device's memory");
  return static_cast<int64_t>(free);
}

// Through two pieces of locked memory: one fills while the other goes over.
void CudaBackend::copy_in(const void* from, int64_t bytes, void* to) {
  int turn = 0;
  for (int64_t at = 0; at < bytes; at += kPiece, turn ^= 1) {
    const int64_t n = std::min(kPiece, bytes - at);
    void* piece = pieces_[turn].reserve(std::min(kPiece, bytes));
    std::memcpy(piece, static_cast<const char*>(from) + at, static_cast<size_t>(n));
    synchronize();  // the other piece has arrived
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, piece, static_cast<size_t>(n), cudaMemcpyHostToDevice,
                          stream_.get()),
          "a copy to the device");
  }
  synchronize();
}

DeviceMemory& CudaBackend::staging(int64_t bytes) {
  if (staging_.bytes() < bytes) {
    staging_ = {};
    staging_ = DeviceMemory(bytes, "a matrix on its way");
  }
  return staging_;
}

std::unique_ptr<Weight> CudaBackend::matrix(const WeightSource& source) {
  leave_step();
  auto weight = std::make_unique<CudaMatrix>();
  weight->type = source.type;
  weight->rows = source.rows;
  weight->cols = source.cols;
  weight->kind = packed_kind(source.type);
  if (weight->kind == nullptr && !is_float(source.type))
    fail("weights of type ", type_info(source.type).name, " cannot be multiplied");
  narrow(source.rows + kRowPadding, "rows of a matrix");
  narrow(source.cols + 256, "columns of a matrix");
  weight->memory = DeviceMemory(matrix_bytes(source.type, source.rows, source.cols), "a matrix");
  const auto bytes = static_cast<int64_t>(source.data.size());
  if (weight->kind == nullptr || !weight->kind->kept) {
    copy_in(source.data.data(), bytes, weight->memory.as<char>());
    return weight;
  }
  char* blocks = staging(bytes).as<char>();
  copy_in(source.data.data(), bytes, blocks);
  weight->kind->pack(stream_, blocks, source.rows, source.cols, weight->memory.as<uint8_t>());
  synchronize();
  return weight;
}

std::unique_ptr<Weight> CudaBackend::embedding(const WeightSource& source) {
  leave_step();
  if (!quant::is_weight_type(source.type))
    fail("embeddings of type ", type_info(source.type).name, " cannot be read");
  auto weight = std::make_unique<CudaEmbedding>();
  weight->type = source.type;
  weight->rows = source.rows;
  weight->cols = source.cols;
  weight->memory = DeviceMemory(static_cast<int64_t>(source.data.size()), "the embeddings");
  copy_in(source.data.data(), static_cast<int64_t>(source.data.size()), weight->memory.as<char>());
  return weight;
}

std::unique_ptr<Vector> CudaBackend::vector(std::span<const float> values) {
  leave_step();
  auto vector = std::make_unique<CudaVector>();
  const auto bytes = static_cast<int64_t>(values.size_bytes());
  vector->memory = DeviceMemory(bytes, "a vector");
  copy_in(values.data(), bytes, vector->memory.as<char>());
  vector->data = vector->memory.as<float>();
  vector->size = static_cast<int64_t>(values.size());
  return vector;
}

int64_t CudaBackend::kv_block_bytes(const KvShape& shape) const {
  return static_cast<int64_t>(kv_layout(kv_element_, shape.head_dim).bytes) * shape.kv_heads * shape.layers;
}

std::unique_ptr<KvCache> CudaBackend::kv_cache(const KvShape& shape, int blocks) {
  leave_step();
  staging_ = {};  // loading is over
  auto cache = std::make_unique<CudaKvCache>();
  cache->shape = shape;
  cache->layout = kv_layout(kv_element_, shape.head_dim);
  cache->layer_bytes = cache->block_bytes() * blocks;
  cache->memory = DeviceMemory(cache->layer_bytes * shape.layers, "the KV cache");
  return cache;
}

void CudaBackend::read_block(const KvCache& cache, int32_t block, std::byte* out) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  use_device();
  for (int i = 0; i < kv.shape.layers; ++i)
    check(cudaMemcpyAsync(out + i * kv.block_bytes(), kv.layer(i) + block * kv.block_bytes(),
                          static_cast<size_t>(kv.block_bytes()), cudaMemcpyDeviceToHost, stream_.get()),
          "a block of the KV cache");
  synchronize();
}

void CudaBackend::write_block(KvCache& cache, int32_t block, const std::byte* from) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  use_device();
  for (int i = 0; i < kv.shape.layers; ++i)
    check(cudaMemcpyAsync(kv.layer(i) + block * kv.block_bytes(), from + i * kv.block_bytes(),
                          static_cast<size_t>(kv.block_bytes()), cudaMemcpyHostToDevice, stream_.get()),
          "a block of the KV cache");
  synchronize();
}

void CudaBackend::begin(const Batch& batch) {
  leave_step();
  synchronize();  // a step may have ended in an error, with no download
  downloads_ = 0;
  part_ = 0;
  plan_.begin(batch, stream_);
  arena_.start(plan_.decodes());
  stream_.defer(plan_.decodes());
}

Tensor CudaBackend::scratch(int64_t rows, int64_t cols) {
  return {arena_.take<float>(plan_.padded(rows) * cols), rows, cols, cols};
}

void CudaBackend::embed(const Weight& table, float scale, Tensor out) {
  const auto& t = static_cast<const CudaEmbedding&>(table);
  if (out.rows == 0) return;
  cuda::embed(stream_, {t.memory.as<char>(), plan_.tokens(), out.data, out.stride, rows(out),
                        static_cast<int32_t>(t.cols), scale, t.type});
}

void CudaBackend::rms_norm(Tensor x, const Vector& weight, float eps, int64_t group, Tensor out, bool add) {
  if (x.rows == 0) return;
  cuda::rms_norm(stream_, {x.data, weight.data, out.data, x.stride, out.stride, rows(x),
                           static_cast<int32_t>(x.cols), static_cast<int32_t>(group), add, eps, 0});
}

void CudaBackend::matmul(std::span<const Factor> factors, const Input& input, Tensor out, bool add) {
  const int64_t n = plan_.padded(input.x.rows), cols = input.cols();
  if (n == 0) return;
  const auto quantized = [](const Factor& f) {
    return static_cast<const CudaMatrix&>(*f.weight).kind != nullptr;
  };
  const bool any_quantized = std::ranges::any_of(factors, quantized);
  const bool any_float = !std::ranges::all_of(factors, quantized);
  const int64_t mark = arena_.mark();

  const int64_t steps = (cols + 255) / 256 * 8;  // chunks are 2 or 8 steps
  const int64_t columns = any_quantized && precise_ ? 2 * n : n, padded = padded_columns(columns);
  QuantizeArgs q{};
  q.x = input.x.data;
  q.stride = input.x.stride;
  q.weight = input.weight != nullptr ? input.weight->data : nullptr;
  q.rows = narrow(n, "rows");
  q.cols = static_cast<int>(cols);
  q.steps = static_cast<int>(steps);
  q.columns = narrow(padded, "columns");
  q.rest_column = any_quantized && precise_ ? static_cast<int>(n) : 0;
  q.op = static_cast<int>(input.op);
  q.eps = input.eps;
  if (any_quantized) {
    q.q = arena_.take<uint32_t>(steps * padded * 8);
    q.meta = arena_.take<uint2>(steps * padded);
  }
  if (any_float) q.plain = arena_.take<float>(n * cols);
  quantize(stream_, q);

  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CudaMatrix&>(*factor.weight);
    const Tensor to = out.columns(column, w.rows);
    if (w.kind == nullptr)
      matmul_float(stream_, {w.memory.as<char>(), q.plain, factor.bias != nullptr ? factor.bias->data : nullptr,
                             to.data, to.stride, static_cast<int32_t>(w.rows), static_cast<int32_t>(w.cols),
                             static_cast<int32_t>(n), add, w.type, 0});
    column += w.rows;
  }
  if (any_quantized) {
    MatmulArgs common{};
    common.q = reinterpret_cast<const uint4*>(q.q);
    common.meta = q.meta;
    common.columns = static_cast<int32_t>(columns);
    common.padded_columns = static_cast<int32_t>(padded);
    if (!precise_) {
      common.add = add;
      multiply(factors, common, out);
    } else {
      const Tensor both{arena_.take<float>(columns * out.cols), columns, out.cols, out.cols};
      std::vector<Factor> plain(factors.begin(), factors.end());
      for (Factor& factor : plain) factor.bias = nullptr;
      multiply(plain, common, both);
      column = 0;
      for (const Factor& factor : factors) {
        const auto& w = static_cast<const CudaMatrix&>(*factor.weight);
        const Tensor to = out.columns(column, w.rows);
        if (w.kind != nullptr)
          join(stream_, {both.row(0) + column, both.row(n) + column,
                         factor.bias != nullptr ? factor.bias->data : nullptr, to.data, both.stride, to.stride,
                         static_cast<int32_t>(n), static_cast<int32_t>(w.rows), add, 0});
        column += w.rows;
      }
    }
  }
  arena_.release(mark);
}

// Neighbours that the same kernel multiplies go into one launch.
void CudaBackend::multiply(std::span<const Factor> factors, const MatmulArgs& common, Tensor out) {
  MatmulArgs args = common;
  const PackedKind* kind = nullptr;
  int32_t tiles = 0;
  const auto launch = [&] {
    if (args.part_count > 0 && !matmul_a(stream_, kind->layout, args)) matmul_b(stream_, kind->layout, args);
    args.part_count = 0;
    tiles = 0;
  };
  int64_t column = 0;
  for (const Factor& factor : factors) {
    const auto& w = static_cast<const CudaMatrix&>(*factor.weight);
    const Tensor to = out.columns(column, w.rows);
    column += w.rows;
    if (w.kind == nullptr) continue;
    const bool same = kind != nullptr && kind->layout == w.kind->layout && kind->zero == w.kind->zero &&
                      std::ranges::equal(kind->table, w.kind->table);
    if (!same || args.part_count == MatmulArgs::kParts || !w.kind->kept) launch();
    kind = w.kind;
    args.out = out.data;
    args.stride = out.stride;
    args.zero = kind->zero;
    args.chunks = static_cast<int32_t>((w.cols + kind->chunk_columns - 1) / kind->chunk_columns);
    std::ranges::copy(kind->table, args.table);
    if (!kind->kept) {
      multiply_unpacked(factor, args, to);
      continue;
    }
    args.parts[args.part_count++] = {w.memory.as<uint8_t>(),
                                     factor.bias != nullptr ? factor.bias->data : nullptr, column - w.rows,
                                     tiles, static_cast<int32_t>(w.rows)};
    tiles += static_cast<int32_t>((w.rows + kRowPadding - 1) / kRowPadding * (kRowPadding / kTileRows));
  }
  launch();
}

// Band by band of rows: packed, multiplied, forgotten.
void CudaBackend::multiply_unpacked(const Factor& factor, MatmulArgs args, Tensor out) {
  const auto& w = static_cast<const CudaMatrix&>(*factor.weight);
  const int64_t mark = arena_.mark(), row_bytes = file_bytes(w.type, 1, w.cols);
  const int64_t tile_bytes = w.kind->bytes(kRowPadding, w.cols);
  const int64_t band = std::max<int64_t>(1, kUnpackedBand / tile_bytes) * kRowPadding;
  auto* packed = arena_.take<uint8_t>(w.kind->bytes(std::min(band, w.rows), w.cols));
  args.out = out.data;
  args.part_count = 1;
  args.weights_are_new = 1;
  for (int64_t first = 0; first < w.rows; first += band) {
    const int64_t rows = std::min(band, w.rows - first);
    w.kind->pack(stream_, w.memory.as<char>() + first * row_bytes, rows, w.cols, packed);
    args.parts[0] = {packed, factor.bias != nullptr ? factor.bias->data + first : nullptr, first, 0,
                     static_cast<int32_t>(rows)};
    if (!matmul_a(stream_, w.kind->layout, args)) matmul_b(stream_, w.kind->layout, args);
  }
  arena_.release(mark);
}

void CudaBackend::rope_table(const Vector& frequency, float magnitude, RopePairs pairs, Tensor out) {
  if (out.rows == 0) return;
  cuda::rope_table(stream_, {frequency.data, plan_.positions(), out.data, out.stride, rows(out),
                             static_cast<int32_t>(frequency.size), magnitude, pairs == RopePairs::Halves});
}

void CudaBackend::copy_blocks(KvCache& cache) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  for (const auto& [from, to] : plan_.batch().copies)
    copy_block(stream_, {kv.layer(0), kv.layer_bytes, kv.block_bytes(), static_cast<int32_t>(kv.shape.layers),
                         from, to, 0});
}

void CudaBackend::store_kv(KvCache& cache, int layer, Tensor q, Tensor k, Tensor v, const Rotation& rotation) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  if (k.rows == 0) return;
  const bool halves = rotation.pairs == RopePairs::Halves;
  const Tensor& table = rotation.table;
  StoreArgs args{};
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.table = table.data;
  args.q_norm = rotation.q_norm != nullptr ? rotation.q_norm->data : nullptr;
  args.k_norm = rotation.k_norm != nullptr ? rotation.k_norm->data : nullptr;
  args.slots = plan_.slots();
  args.layer = kv.layer(layer);
  args.q_stride = q.stride;
  args.k_stride = k.stride;
  args.v_stride = v.stride;
  args.table_stride = table.stride;
  args.rows = rows(k);
  args.q_heads = static_cast<int32_t>(q.cols / kv.shape.head_dim);
  args.kv_heads = kv.shape.kv_heads;
  args.n = static_cast<int32_t>(table.cols / (halves ? 2 : 4));
  args.halves = halves;
  args.eps = rotation.eps;
  args.kv = kv.layout;
  cuda::store_kv(stream_, args);
}

void CudaBackend::attend(KvCache& cache, int layer, Tensor q, const AttentionShape& shape, Tensor out) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  if (q.rows == 0) return;
  AttendArgs args{};
  args.group = shape.heads / shape.kv_heads;
  args.group_tiles = (args.group + kTileQueries - 1) / kTileQueries;
  const int heads = (args.group + args.group_tiles - 1) / args.group_tiles;
  const int tile_rows = kTileQueries / heads;
  if (!plan_.knows_tiles(tile_rows)) run_waiting();
  const TilePlan& tiles = plan_.tiles(tile_rows, stream_);
  args.q = q.data;
  args.layer = kv.layer(layer);
  args.tiles = tiles.tiles;
  args.tables = plan_.tables();
  args.out = out.data;
  args.q_stride = q.stride;
  args.out_stride = out.stride;
  args.tile_count = tiles.count;
  args.chunks = plan_.chunks();
  args.kv_heads = shape.kv_heads;
  args.window = shape.window;
  args.scale = shape.softcap > 0.0f ? shape.scale : shape.scale * kLog2E;
  args.softcap = shape.softcap;
  args.kv = kv.layout;
  // Few blocks leave multiprocessors idle: then every chunk is a block of its own, and they fold afterwards.
  const int64_t blocks = int64_t{args.tile_count} * args.group_tiles * args.kv_heads;
  const int64_t partial = blocks * args.chunks * kTileQueries * (shape.head_dim + 2);
  const int64_t mark = arena_.mark();
  if (args.chunks > 1 && args.chunks <= 65535 && blocks < 4 * multiprocessors_ && 4 * partial <= kPartials)
    args.partial = arena_.take<float>(partial);
  cuda::attend(stream_, args);
  arena_.release(mark);
}

void CudaBackend::gather_rows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  if (rows.empty()) return;
  const int32_t* indices = plan_.sampled();
  if (!std::ranges::equal(rows, plan_.batch().sampled_rows)) {
    run_waiting();
    auto* own = arena_.take<int32_t>(static_cast<int64_t>(rows.size()));
    check(cudaMemcpyAsync(own, rows.data(), rows.size_bytes(), cudaMemcpyHostToDevice, stream_.get()), "rows");
    synchronize();
    indices = own;
  }
  gather(stream_, {x.data, indices, out.data, x.stride, out.stride,
                   static_cast<int32_t>(plan_.padded(out.rows)), static_cast<int32_t>(x.cols)});
}

// Over go [rows][edits][masks] in one copy, and back the tokens.
std::vector<Chosen> CudaBackend::choose(Tensor logits, std::span<const Choice> choices) {
  run_waiting();
  stream_.defer(false);  // what differs from step to step is no part of its graph
  std::vector<ChoiceRow> rows;
  std::vector<LogitEdit> edits;
  std::vector<uint32_t> masks;
  const uint32_t* last_mask = nullptr;  // forks share one
  for (const Choice& c : choices) {
    ChoiceRow row{c.u,
                  c.temperature,
                  c.top_p,
                  c.log_min_p,
                  c.top_k,
                  c.logprob,
                  static_cast<int32_t>(edits.size()),
                  static_cast<int32_t>(c.edits.size()),
                  -1};
    edits.insert(edits.end(), c.edits.begin(), c.edits.end());
    if (!c.mask.empty()) {
      if (c.mask.data() != last_mask) masks.insert(masks.end(), c.mask.begin(), c.mask.end());
      last_mask = c.mask.data();
      row.mask = static_cast<int32_t>(masks.size() - c.mask.size());
    }
    rows.push_back(row);
  }
  const size_t sizes[] = {rows.size() * sizeof(ChoiceRow), edits.size() * sizeof(LogitEdit),
                          masks.size() * sizeof(uint32_t)};
  const auto bytes = static_cast<int64_t>(sizes[0] + sizes[1] + sizes[2]);
  const auto out_bytes = static_cast<int64_t>(rows.size() * sizeof(Chosen));
  auto* host = static_cast<char*>(choices_.reserve(std::max(bytes, out_bytes)));
  std::memcpy(host, rows.data(), sizes[0]);
  if (!edits.empty()) std::memcpy(host + sizes[0], edits.data(), sizes[1]);
  if (!masks.empty()) std::memcpy(host + sizes[0] + sizes[1], masks.data(), sizes[2]);
  if (choices_there_.bytes() < bytes) choices_there_ = DeviceMemory(2 * bytes, "a step's choices");
  auto* there = choices_there_.as<char>();
  check(cudaMemcpyAsync(there, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_.get()),
        "a step's choices");
  ChooseArgs args{};
  args.logits = logits.data;
  args.stride = logits.stride;
  args.rows = reinterpret_cast<const ChoiceRow*>(there);
  args.edits = reinterpret_cast<const LogitEdit*>(there + sizes[0]);
  args.masks = reinterpret_cast<const uint32_t*>(there + sizes[0] + sizes[1]);
  args.originals = arena_.take<float>(static_cast<int64_t>(edits.size()));
  args.out = arena_.take<Chosen>(static_cast<int64_t>(rows.size()));
  args.vocab = narrow(logits.cols, "tokens of a vocabulary");
  args.count = static_cast<int32_t>(rows.size());
  cuda::choose(stream_, args);
  check(cudaMemcpyAsync(host, args.out, static_cast<size_t>(out_bytes), cudaMemcpyDeviceToHost, stream_.get()),
        "a step's tokens");
  synchronize();
  std::vector<Chosen> chosen(rows.size());
  std::memcpy(chosen.data(), host, static_cast<size_t>(out_bytes));
  return chosen;
}

Tensor CudaBackend::download(Tensor x) {
  run_waiting();
  if (downloads_ == results_.size()) results_.emplace_back();
  auto* host = static_cast<float*>(results_[downloads_++].reserve(x.rows * x.cols * 4));
  const auto width = static_cast<size_t>(x.cols) * sizeof(float);
  if (x.rows > 0)
    check(cudaMemcpy2DAsync(host, width, x.data, static_cast<size_t>(x.stride) * sizeof(float), width,
                            static_cast<size_t>(x.rows), cudaMemcpyDeviceToHost, stream_.get()),
          "a step's results");
  synchronize();
  return {host, x.rows, x.cols, x.cols};
}

void CudaBackend::upload(Tensor host, Tensor out) {
  run_waiting();
  const auto width = static_cast<size_t>(host.cols) * sizeof(float);
  if (host.rows > 0)
    check(cudaMemcpy2DAsync(out.data, static_cast<size_t>(out.stride) * sizeof(float), host.data,
                            static_cast<size_t>(host.stride) * sizeof(float), width,
                            static_cast<size_t>(host.rows), cudaMemcpyHostToDevice, stream_.get()),
          "activations");
  synchronize();
}

}  // namespace pyllm::cuda
