import './main.css'

// Written out one by one: so they are found by the build, each a piece of its own.
const pages = {
  1: () => import('./pages/page1.js'),
  2: () => import('./pages/page2.js'),
  3: () => import('./pages/page3.js'),
  4: () => import('./pages/page4.js'),
  5: () => import('./pages/page5.js'),
  6: () => import('./pages/page6.js'),
}

window.release = RELEASE

// Opens a page as a click would, and tells whether all of it came: its script, its style and its picture.
window.open_page = async (number) => {
  const { page } = await pages[number]()
  const { text, picture } = page()
  const box = document.createElement('div')
  box.className = `page${number}`
  box.textContent = text
  const image = new Image()
  image.src = picture
  box.append(image)
  document.getElementById('main').append(box)
  await image.decode()
  if (getComputedStyle(box).outlineWidth !== `${number}px`) throw new Error('its style is missing')
  return text
}
