# The CUDA backend: libpyllm_cuda.so, which the core opens at run time. Calls nvcc itself, so that the one in
# NVIDIA's wheels (nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime) will do.
if(POLICY CMP0116)
  cmake_policy(SET CMP0116 NEW)
endif()
set(PYLLM_CUDA AUTO CACHE STRING "ON, OFF or AUTO: where there are nvcc and an NVIDIA driver")
set(PYLLM_CUDA_ARCHITECTURES "" CACHE STRING "such as 80;90; empty: this machine's GPU, or 80;86;89;90 without one")
set(PYLLM_NVCC "" CACHE FILEPATH "nvcc; empty: from CUDACXX, CUDA_HOME, PATH, /usr/local/cuda or Python's packages")

set(cuda ${PYLLM_CUDA})
set(has_driver FALSE)
if(EXISTS /proc/driver/nvidia/version OR EXISTS /dev/nvidiactl)
  set(has_driver TRUE)
endif()
if(cuda STREQUAL AUTO AND NOT has_driver)
  set(cuda OFF)
endif()
if(NOT cuda)
  return()
endif()

# Tells why there will be no CUDA backend; where it was asked for, that is an error.
macro(pyllm_no_cuda reason)
  if(PYLLM_CUDA STREQUAL AUTO)
    message(STATUS "No CUDA backend: ${reason}")
  else()
    message(FATAL_ERROR "PYLLM_CUDA=${PYLLM_CUDA}: ${reason}")
  endif()
  return()
endmacro()

set(nvcc ${PYLLM_NVCC})
if(NOT nvcc)
  set(hints $ENV{CUDACXX})
  if(NOT hints)
    file(GLOB wheels ${Python_SITEARCH}/nvidia/cu*/bin/nvcc $ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/cu*/bin/nvcc)
    foreach(path $ENV{CUDA_HOME}/bin/nvcc $ENV{CUDA_PATH}/bin/nvcc)
      if(EXISTS ${path})
        list(APPEND hints ${path})
      endif()
    endforeach()
    find_program(PYLLM_NVCC_FOUND nvcc HINTS /usr/local/cuda/bin)
    if(PYLLM_NVCC_FOUND)
      list(APPEND hints ${PYLLM_NVCC_FOUND})
    endif()
    list(APPEND hints ${wheels})
  endif()
  list(GET hints 0 nvcc)
endif()
if(NOT nvcc OR NOT EXISTS ${nvcc})
  pyllm_no_cuda("no nvcc found; name it with PYLLM_NVCC or CUDACXX")
endif()
# Its folder by its own word: what stands in PATH may be a script that calls it.
execute_process(COMMAND ${nvcc} --dryrun -x cu -c /dev/null OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(NOT said MATCHES "TOP=([^\r\n]+)")
  pyllm_no_cuda("${nvcc} does not work: ${said}")
endif()
get_filename_component(toolkit ${CMAKE_MATCH_1} REALPATH)
find_library(PYLLM_CUDART NAMES libcudart_static.a PATHS ${toolkit} PATH_SUFFIXES
             lib64 lib targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib lib/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu NO_DEFAULT_PATH)
find_path(PYLLM_CUDA_INCLUDE cuda_runtime.h PATHS ${toolkit} PATH_SUFFIXES
          include targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include NO_DEFAULT_PATH)
if(NOT PYLLM_CUDART OR NOT PYLLM_CUDA_INCLUDE)
  pyllm_no_cuda("${toolkit} has no libcudart_static.a and cuda_runtime.h (nvidia-cuda-runtime)")
endif()

set(code)
if(PYLLM_CUDA_ARCHITECTURES)
  set(architectures ${PYLLM_CUDA_ARCHITECTURES})
elseif(has_driver)
  set(code -arch=native)
else()
  set(architectures 80 86 89 90)
endif()
if(NOT code)
  list(GET architectures -1 newest)
  foreach(one ${architectures})
    list(APPEND code -gencode=arch=compute_${one},code=sm_${one})
  endforeach()
  list(APPEND code -gencode=arch=compute_${newest},code=compute_${newest})  # for GPUs to come
endif()
# No contraction: where a fused multiply-add is wanted it is written, so that every kernel gives the same bits.
set(flags -std=c++20 -O3 -fmad=false ${code} -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off)

# A product that GPUs before Ampere do not have.
file(WRITE ${PROJECT_BINARY_DIR}/cuda/try.cu [[
__global__ void kernel(int* c) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%0,%1,%2,%3}, {%0,%1}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]));
}
]])
execute_process(COMMAND ${nvcc} ${flags} -c ${PROJECT_BINARY_DIR}/cuda/try.cu -o ${PROJECT_BINARY_DIR}/cuda/try.o
                RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(failed)
  string(STRIP "${said}" said)
  pyllm_no_cuda("${nvcc} does not work: ${said}")
endif()

file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpp/backend/cuda/*.cu)
set(objects)
foreach(source ${kernels})
  get_filename_component(name ${source} NAME)
  set(object ${PROJECT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${nvcc} ${flags} -I${PROJECT_SOURCE_DIR}/cpp -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}" VERBATIM)
  list(APPEND objects ${object})
endforeach()
file(GLOB host CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpp/backend/cuda/*.cc)
add_library(pyllm_cuda SHARED ${host} cpp/quant/dequantize.cc ${objects})
target_include_directories(pyllm_cuda SYSTEM PRIVATE ${PYLLM_CUDA_INCLUDE})
target_link_libraries(pyllm_cuda PRIVATE ${PYLLM_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
target_link_options(pyllm_cuda PRIVATE -Wl,--no-undefined -Wl,--exclude-libs,ALL)
message(STATUS "CUDA backend: ${nvcc}, ${code}")
