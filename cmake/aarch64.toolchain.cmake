# Cross compilation for 64-bit ARM Linux with the distribution's GCC:
#   cmake -S . -B build/aarch64 --toolchain cmake/aarch64.toolchain.cmake -DPYLLM_PYTHON=OFF
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Static programs run under user-mode emulation without a root file system of that architecture.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
