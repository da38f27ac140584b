# Plants one violation at a time into a small library in the current directory: includes.cmake must see each, and must
# accept the library without one.
cmake_minimum_required(VERSION 3.24)

file(GLOB there *)
if(there)
  message(FATAL_ERROR "includes_planted.cmake writes and deletes include/ in the current directory: run it in an empty one")
endif()

function(plant name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "EXPECT" "")
  file(REMOVE_RECURSE include)
  # The clean library ...
  file(WRITE include/relay/core/require.hpp "#include <string>\n")
  file(WRITE include/relay/task/example.hpp "#include <relay/core/require.hpp>\n")
  file(WRITE include/relay/backend/cpu.hpp "#include <Eigen/Core>\n#include <relay/backend/cpu/simd.hpp>\n")
  file(WRITE include/relay/backend/cpu/simd.hpp "#include <relay/core/require.hpp>\n#include <relay/backend/cpu/exp.hpp>\n")
  file(WRITE include/relay/backend/cpu/exp.hpp "#ifndef RELAY_CPU_LEVEL\n#include <relay/backend/cpu/simd.hpp>\n#endif\n")
  file(WRITE include/relay/layer/linear.hpp "#include <relay/core/require.hpp>\n")
  file(WRITE include/relay/backend/cuda.cuh "#include <relay/core/require.hpp>\n")
  file(WRITE include/relay/train/loss.hpp "#include <relay/task/example.hpp>\n#  include <relay/layer/linear.hpp>\n")
  set(umbrella "#include <relay/core/require.hpp>\n#include <relay/task/example.hpp>\n#include <relay/backend/cpu.hpp>\n"
    "#include <relay/layer/linear.hpp>\n#include <relay/train/loss.hpp>\n")
  file(WRITE include/relay/relay.hpp ${umbrella})
  # ... and what is planted: file, line.
  if(arg_UNPARSED_ARGUMENTS)
    list(GET arg_UNPARSED_ARGUMENTS 0 file)
    list(GET arg_UNPARSED_ARGUMENTS 1 line)
    file(APPEND include/relay/${file} "${line}\n")
  endif()

  execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${CMAKE_CURRENT_BINARY_DIR}/include
    -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/includes.cmake RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(FIND "${said}" "${arg_EXPECT}" at)
  if((arg_UNPARSED_ARGUMENTS AND result EQUAL 0) OR (NOT arg_UNPARSED_ARGUMENTS AND NOT result EQUAL 0) OR at EQUAL -1)
    message(FATAL_ERROR "${name}: expected \"${arg_EXPECT}\", got result ${result}:\n${said}")
  endif()
  message(STATUS "${name}: seen")
endfunction()

plant("clean" EXPECT "all includes point one way")
plant("upward" layer/linear.hpp "#include <relay/train/loss.hpp>" EXPECT "layer may include only itself")
plant("upward, indented" core/require.hpp "  #  include  <relay/backend/cpu.hpp>  // why" EXPECT "core may include only itself")
plant("task knows a layer" task/example.hpp "#include <relay/layer/linear.hpp>" EXPECT "task may include only itself")
plant("upward from CUDA" backend/cuda.cuh "#include <relay/layer/linear.hpp>" EXPECT "backend may include only itself")
plant("a kernel that does not wait" backend/cuda.cuh "template <class T>\n__global__ void some_kernel(T* x) {\n  ++*x, after_earlier_kernels()\n}"
  EXPECT "some_kernel does not begin with after_earlier_kernels()")
plant("Eigen outside the CPU backend" layer/linear.hpp "#include <Eigen/Dense>" EXPECT "only backend/cpu* knows Eigen")
plant("a kernel's own include" backend/cpu/exp.hpp "#include <cmath>" EXPECT "what its levels need stands in backend/cpu/levels.hpp")
plant("the umbrella inside" train/loss.hpp "#include <relay/relay.hpp>" EXPECT "includes the umbrella")
plant("quoted" train/loss.hpp "#include \"../model/x.hpp\"" EXPECT "write <relay/...>")
plant("not in the umbrella" layer/norm.hpp "#pragma once" EXPECT "relay/layer/norm.hpp: is missing in relay.hpp")
plant("a part nobody includes" backend/cpu/tensor.hpp "#pragma once" EXPECT "is included neither by backend/cpu.hpp nor")
plant("twice in the umbrella" relay.hpp "#include <relay/layer/linear.hpp>" EXPECT "a header twice")
plant("a strange umbrella line" relay.hpp "#include <vector>" EXPECT "which is no header of the library")
plant("an unknown directory" utils/all.hpp "#pragma once" EXPECT "'utils' is none of")
