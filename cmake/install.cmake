# Install and export: headers, the CMake package, relay.pc. There is nothing compiled in it, so everything lies under
# the share directory, and both descriptions find the rest relative to themselves: the prefix may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(relay_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/relay)
set(relay_pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)

install(TARGETS relay EXPORT relay
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILE_SET cuda_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT relay NAMESPACE relay:: FILE relayTargets.cmake DESTINATION ${relay_package_dir})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/relayConfig.cmake.in ${PROJECT_BINARY_DIR}/relayConfig.cmake
  INSTALL_DESTINATION ${relay_package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break its users.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/relayConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/relayConfig.cmake ${PROJECT_BINARY_DIR}/relayConfigVersion.cmake ${CMAKE_CURRENT_LIST_DIR}/cuda.cmake
  DESTINATION ${relay_package_dir})

file(RELATIVE_PATH relay_up "${CMAKE_INSTALL_PREFIX}/${relay_pkgconfig_dir}" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" relay_up "${relay_up}")
set(relay_pc_prefix "\${pcfiledir}/${relay_up}")
set(relay_pc_includedir "\${prefix}")
cmake_path(APPEND relay_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")  # an absolute directory replaces the prefix
configure_file(${CMAKE_CURRENT_LIST_DIR}/relay.pc.in ${PROJECT_BINARY_DIR}/relay.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/relay.pc DESTINATION ${relay_pkgconfig_dir})
