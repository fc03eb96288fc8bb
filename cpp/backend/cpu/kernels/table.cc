// This instruction set's row in the table of kernels.
#include "backend/cpu/kernels.h"

namespace pyllm::cpu::PYLLM_ISA {

#define PYLLM_NAME_OF(isa) #isa
#define PYLLM_NAME(isa) PYLLM_NAME_OF(isa)

const MatmulKernels* matmul_kernels(const Layout& layout);
const FloatMatmulKernels* float_matmul_kernels(Type type);
PackKernel pack_kernel(Type type);
void quantize(const float* x, int64_t n, int64_t width, int8_t* q, float* scale, int32_t* sums);
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out);
void add_to(float* x, const float* y, int64_t n);
void scale_by(float* x, float factor, int64_t n);
void silu_gate(const float* gate, const float* up, int64_t n, float* out);
void gelu_gate(const float* gate, const float* up, int64_t n, float* out);
void rope_halves(float* head, const float* table, int64_t n);
void rope_adjacent(float* head, const float* table, int64_t n);
void to_half(const float* x, int64_t n, uint16_t* out);
void attend(const AttentionChunk& chunk);
void merge(float* max, float* sum, float* out, float chunk_max, float chunk_sum, const float* chunk_out, int n);
int64_t int8_ops(int64_t steps);

extern const Kernels kernels;
const Kernels kernels = {PYLLM_NAME(PYLLM_ISA),
                         matmul_kernels,
                         float_matmul_kernels,
                         pack_kernel,
                         quantize,
                         rms_norm,
                         add_to,
                         scale_by,
                         silu_gate,
                         gelu_gate,
                         rope_halves,
                         rope_adjacent,
                         to_half,
                         attend,
                         merge,
                         int8_ops};

}  // namespace pyllm::cpu::PYLLM_ISA
