// Screenshots of h5web: node shoot.mjs ORIGIN FOLDER NAME…   (CHROMIUM: the browser's program)
// Prints a line of JSON for each file: its name, the text of the page, errors, the place of the plot.
import { chromium } from 'playwright-core';

const [origin, folder, ...names] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'],
});
for (const name of names) {
  const page = await browser.newPage({ viewport: { width: 640, height: 400 } });
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  let plot = null;
  try {
    await page.goto(`${origin}/page.html?file=${name}`);
    const canvas = page.locator('canvas').first();
    await canvas.waitFor({ timeout: 30_000 });
    await page.waitForLoadState('networkidle');
    // What was asked for is drawn in the frame after the next.
    await page.evaluate(() => new Promise((done) => {
      requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 500)));
    }));
    plot = await canvas.boundingBox();
  } catch (error) {
    errors.push(error.message);
  }
  await page.screenshot({ path: `${folder}/h5web_${name.replace(/\.nxs$/, '')}.png` });
  const text = await page.evaluate(() => document.body.innerText);
  console.log(JSON.stringify({ name, text, errors, plot }));
  await page.close();
}
await browser.close();
