# PyTorch as two imported libraries, flarec::torch: headers, libtorch_cpu.so and libc10.so. Torch's own
# TORCH_LIBRARIES also brings c10_cuda, the CUDA toolkit and its RPATHs; one build of ours must serve
# every torch of this version, with CUDA or without.

set(FLAREC_TORCH_DIR "" CACHE PATH "Directory of PyTorch (the one with include/ and lib/); empty: ask Python")
find_program(FLAREC_PYTHON NAMES python3
  PATHS ${CMAKE_SOURCE_DIR}/.venv/bin ${CMAKE_SOURCE_DIR}/../venv/bin NO_DEFAULT_PATH
  DOC "Python with torch, for the tests of the ops")
find_program(FLAREC_PYTHON NAMES python3)
if(NOT FLAREC_TORCH_DIR AND FLAREC_PYTHON)
  execute_process(
    COMMAND ${FLAREC_PYTHON} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE flarec_torch_found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(flarec_torch_found)
    set(FLAREC_TORCH_DIR ${flarec_torch_found} CACHE PATH "" FORCE)
  endif()
endif()
if(NOT EXISTS ${FLAREC_TORCH_DIR}/lib/libtorch_cpu.so)
  message(FATAL_ERROR
    "The ops need PyTorch, but '${FLAREC_TORCH_DIR}/lib/libtorch_cpu.so' does not exist. Install it with\n"
    "  python3 -m venv .venv && .venv/bin/pip install -r scripts/requirements.txt\n"
    "or give -DFLAREC_TORCH_DIR=<directory of torch or libtorch>, or leave the ops out with -DFLAREC_BUILD_OPS=OFF.")
endif()
message(STATUS "PyTorch: ${FLAREC_TORCH_DIR}")

find_package(OpenMP REQUIRED COMPONENTS CXX)

foreach(library torch_cpu c10)
  add_library(flarec_${library} SHARED IMPORTED GLOBAL)
  set_target_properties(flarec_${library} PROPERTIES
    IMPORTED_LOCATION ${FLAREC_TORCH_DIR}/lib/lib${library}.so)
endforeach()
add_library(flarec_torch_interface INTERFACE)
add_library(flarec::torch ALIAS flarec_torch_interface)
target_include_directories(flarec_torch_interface SYSTEM INTERFACE
  ${FLAREC_TORCH_DIR}/include ${FLAREC_TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(flarec_torch_interface INTERFACE flarec_torch_cpu flarec_c10)
# at::parallel_for is a template: in a unit compiled without OpenMP it is silently serial. The library
# that it calls is the libgomp in torch, so nothing is linked.
target_compile_options(flarec_torch_interface INTERFACE ${OpenMP_CXX_FLAGS})
# What torch_cpu needs in its turn (CUDA's runtime in a CUDA build) is its own business.
target_link_options(flarec_torch_interface INTERFACE LINKER:--allow-shlib-undefined)
