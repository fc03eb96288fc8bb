// Fibers, barriers and exchanges of the emulator, and the runtime's calls.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct Free {
  void operator()(void* p) const { std::free(p); }
};
struct EmulatedGraph {
  struct Node {
    dim3 grid, threads;
    size_t shared;
    void (*body)(const void*);
    std::unique_ptr<std::byte, Free> argument;
  };
  std::vector<Node> nodes;
};

namespace emulator {
namespace {

EmulatedGraph* recording = nullptr;

constexpr size_t kStack = 256 << 10;

extern "C" void pyllm_switch_fiber(void** from, void* to);
#if defined(__x86_64__)
// Saves what a call must preserve, and goes on where `to` was left.
asm(R"(
.text
.type pyllm_switch_fiber, @function
pyllm_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pyllm_switch_fiber, .-pyllm_switch_fiber
)");
#else
#error "the emulator switches fibers on x86-64 only"
#endif

struct Warp {
  int64_t exchanges = 0;  // that all lanes have come to
  int arrived = 0;
  const char* what = nullptr;
  Exchange slots[2];
};

struct Fiber {
  void* context = nullptr;
  char* stack = nullptr;
  dim3 thread;
  Warp* warp = nullptr;
  int lane = 0;
  int64_t exchanges = 0;  // that this lane has come to
  bool at_barrier = false, done = true;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;
  void (*body)(const void*) = nullptr;
  const void* argument = nullptr;
  void* shared = nullptr;
};
Block block;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "emulator: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, what);
  std::abort();
}

void to_scheduler() {
  Fiber& me = *block.current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, block.scheduler_stack, block.scheduler_size);
#endif
  pyllm_switch_fiber(&me.context, block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &block.scheduler_stack, &block.scheduler_size);
#endif
}

void resume(Fiber& fiber) {
  block.current = &fiber;
  threadIdx = fiber.thread;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, kStack);
#endif
  pyllm_switch_fiber(&block.scheduler, fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

[[noreturn]] void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_size);
#endif
  for (;;) {
    block.body(block.argument);
    block.current->done = true;
    to_scheduler();
  }
}

void make_fibers(size_t count) {
  while (block.fibers.size() < count) {
    Fiber fiber;
    fiber.stack = static_cast<char*>(
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (fiber.stack == MAP_FAILED) die("no memory for stacks");
    auto** top = reinterpret_cast<void**>(fiber.stack + kStack) - 1;  // aligned as after a call
    *--top = reinterpret_cast<void*>(&fiber_main);
    fiber.context = top - 6;
    block.fibers.push_back(fiber);
  }
}

bool can_go(const Fiber& f) { return !f.done && !f.at_barrier && f.exchanges == f.warp->exchanges; }

// Every lane of the warp as far as it can go. True when any went.
bool run_warp(size_t first, size_t count) {
  bool any = false;
  for (bool again = true; again; any |= again) {
    again = false;
    for (size_t i = 0; i < count; ++i) {
      Fiber& f = block.fibers[first + (reversed ? count - 1 - i : i)];
      if (!can_go(f)) continue;
      again = true;
      resume(f);
    }
  }
  return any;
}

void run_block(size_t threads) {
  for (size_t left = threads; left > 0;) {
    bool any = false;
    const size_t warps = block.warps.size();
    for (size_t w = 0; w < warps; ++w) any |= run_warp((reversed ? warps - 1 - w : w) * 32, 32);
    left = 0;
    size_t waiting = 0;
    for (size_t i = 0; i < threads; ++i) {
      left += !block.fibers[i].done;
      waiting += block.fibers[i].at_barrier;
    }
    if (waiting == threads)
      for (size_t i = 0; i < threads; ++i) block.fibers[i].at_barrier = false;
    else if (!any && left > 0)
      die(waiting > 0 ? "threads wait at a barrier that others never come to"
                      : "lanes wait at an exchange that others never come to");
  }
}

void run(dim3 grid, dim3 threads, size_t shared, void (*body)(const void*), const void* argument) {
  ++launches;
  const size_t count = size_t{threads.x} * threads.y * threads.z;
  if (count == 0 || count > 1024 || count % 32 != 0 || shared > (227 << 10) || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    die("such a launch is not possible");
  make_fibers(count);
  block.body = body;
  block.argument = argument;
  gridDim = grid;
  blockDim = threads;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t n = 0; n < blocks; ++n) {
    const uint64_t b = reversed ? blocks - 1 - n : n;
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    block.warps.assign(count / 32, {});
    block.shared = shared > 0 ? std::aligned_alloc(16, (shared + 15) / 16 * 16) : nullptr;
    if (shared > 0) std::memset(block.shared, 0xff, (shared + 15) / 16 * 16);
    for (size_t i = 0; i < count; ++i) {
      Fiber& f = block.fibers[i];
      f.thread = {static_cast<unsigned>(i % threads.x), static_cast<unsigned>(i / threads.x % threads.y),
                  static_cast<unsigned>(i / threads.x / threads.y)};
      f.warp = &block.warps[i / 32];
      f.lane = static_cast<int>(i % 32);
      f.exchanges = 0;
      f.at_barrier = f.done = false;
    }
    run_block(count);
    std::free(block.shared);
  }
}

}  // namespace

void launch(dim3 grid, dim3 threads, size_t shared, void (*body)(const void*), const void* argument,
            size_t argument_bytes) {
  if (recording == nullptr) return run(grid, threads, shared, body, argument);
  auto* copy = static_cast<std::byte*>(std::aligned_alloc(16, (argument_bytes + 15) / 16 * 16));
  std::memcpy(copy, argument, argument_bytes);
  recording->nodes.push_back({grid, threads, shared, body, std::unique_ptr<std::byte, Free>(copy)});
}

void barrier() {
  block.current->at_barrier = true;
  to_scheduler();
}

const Exchange& exchange(const void* mine, const char* what) {
  Fiber& me = *block.current;
  Warp& warp = *me.warp;
  Exchange& slot = warp.slots[me.exchanges % 2];
  slot.of[me.lane] = mine;
  ++me.exchanges;
  if (warp.arrived > 0 && std::strcmp(warp.what, what) != 0)
    die("the lanes of a warp came to different exchanges");
  warp.what = what;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.exchanges;
  } else {
    to_scheduler();
  }
  return slot;
}

void* shared() { return block.shared; }

// What is no launch cannot be captured.
void expect_no_capture(const char* what) {
  if (recording != nullptr) die(what);
}

}  // namespace emulator

cudaError_t cudaMalloc(void** p, size_t bytes) {
  emulator::expect_no_capture("memory taken or given back during a capture");
  *p = std::malloc(bytes);
  if (*p != nullptr) std::memset(*p, 0xff, bytes);
  return *p != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* p) {
  emulator::expect_no_capture("memory taken or given back during a capture");
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  emulator::expect_no_capture("a copy during a capture");
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t i = 0; i < height; ++i)
    std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : 101; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"Emulator", 8, 0, 2, 1 << 20, size_t{1} << 34, 227 << 10};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* out, int size, int) {
  std::snprintf(out, static_cast<size_t>(size), "0000:00:00.0");
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t{1} << 34;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  emulator::expect_no_capture("a wait during a capture");
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (emulator::refuses_graphs) return 801;
  emulator::recording = new EmulatedGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(emulator::recording, nullptr);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph{std::move(graph->nodes)};
  ++emulator::captures;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  ++emulator::replays;
  for (const EmulatedGraph::Node& node : graph->nodes)
    emulator::run(node.grid, node.threads, node.shared, node.body, node.argument.get());
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "emulated error";
}
