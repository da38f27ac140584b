# What relay builds on. Everything comes from find_package; nothing is ever downloaded.

# relay_find(<package> [<version>] TARGET <target> DEBIAN <Debian package>)
# A parent project that already has <target> keeps its own. A missing package is one clear sentence.
# (A macro: find_package must make its variables and targets visible where it is called.)
macro(relay_find package)
  cmake_parse_arguments(relay_find "" "TARGET;DEBIAN" "" ${ARGN})
  if(NOT TARGET ${relay_find_TARGET})
    find_package(${package} ${relay_find_UNPARSED_ARGUMENTS} QUIET)
  endif()
  if(NOT TARGET ${relay_find_TARGET})
    message(FATAL_ERROR "relay needs ${package} ${relay_find_UNPARSED_ARGUMENTS}, which was not found. "
      "On Debian: apt-get install ${relay_find_DEBIAN}. Elsewhere: install it and name its prefix in CMAKE_PREFIX_PATH.")
  endif()
endmacro()
