// Every operation, every type of weights and whole tiny models: CUDA beside the CPU's scalar twin, on fresh
// random inputs with poisoned outputs. On a GPU, or - compiled for it - in the emulator.
//   compare_backends [--quick | --smoke] [--only products|rows|attention|choices|steps|models] [--device N]
//   [model.gguf or a folder of them]
#include <chrono>
#include <cstdlib>

#include "compare.h"

#ifdef PYLLM_EMULATED
#include "cuda_runtime.h"
#endif

int main(int argc, char** argv) {
  using namespace pyllm::compare;
  Report report;
  std::string only, models;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--quick" || arg == "--smoke")
      report.quick = true, report.smoke |= arg == "--smoke";
    else if (arg == "--only" && i + 1 < argc)
      only = argv[++i];
    else if (arg == "--device" && i + 1 < argc)
      report.device = std::atoi(argv[++i]);
#ifdef PYLLM_EMULATED
    else if (arg == "--reversed")
      emulator::reversed = true;
#endif
    else if (arg[0] != '-')
      models = arg;
    else
      return std::fprintf(stderr, "unknown option %s\n", arg.c_str()), 2;
  }
  const auto section = [&](const char* name, const std::function<void()>& run) {
    if (!only.empty() && only != name) return;
    const auto start = std::chrono::steady_clock::now();
    const int checks = report.checks, failures = report.failures;
    report.worst = 0.0;
    try {
      run();
    } catch (const std::exception& error) {
      report.expect(false, std::string(name) + ": " + error.what());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%-10s %5d checks, %d failed, worst difference %.0f %% of what is allowed, %.1f s\n", name,
                report.checks - checks, report.failures - failures, 100.0 * report.worst, seconds);
    std::fflush(stdout);
  };
  section("products", [&] { compare_products(report); });
  section("rows", [&] { compare_rows(report); });
  section("attention", [&] { compare_attention(report); });
  section("choices", [&] { compare_choices(report); });
  section("steps", [&] { compare_steps(report); });
  if (!models.empty()) section("models", [&] { compare_models(report, models); });
  return report.failures > 0 || report.checks == 0 ? 1 : 0;
}
