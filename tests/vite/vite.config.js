export default {
  define: { RELEASE: JSON.stringify(process.env.RELEASE) },
  // No picture within a stylesheet or a script: each is a file that must be found.
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false } },
}
